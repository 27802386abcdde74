/* From bytes to values: the twin of _pure.py, with the same names; of that function of
 * _grpc/messages.py which takes messages from frames; and of that of _chain.py which puts
 * events into a mapping.
 *
 * Messages are read straight into the objects that users get. For any bytes the outcome
 * is that of protobuf's own parser (upb): the same values, or an error from both. What
 * it accepts beyond the letter of the encoding is accepted here, and named where it is.
 *
 * Bytes come from the network, and none is trusted: everything is read through a Span,
 * whose `at` never passes its `end`. Nothing recurses, and no announced length makes
 * room for anything before so many bytes are seen to be there.
 *
 * No object here is known to the garbage collector: they hold bytes, numbers and each
 * other, and form no cycle.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* --- The classes: their fields; what one can do with them, _responses.py adds --- */

typedef struct {
    PyObject_HEAD
    PyObject *key;
    PyObject *value;
    long long create_revision;
    long long mod_revision;
    long long version;
    long long lease;
} KeyValue;

typedef struct {
    PyObject_HEAD
    PyObject *type;
    PyObject *kv;
    PyObject *prev_kv;
} Event;

typedef struct {
    PyObject_HEAD
    PyObject *cancel_reason;
    PyObject *events;
    unsigned long long cluster_id;
    unsigned long long member_id;
    long long revision;
    unsigned long long raft_term;
    long long watch_id;
    long long compact_revision;
    long long first_revision;
    long long last_revision;
    Py_ssize_t size;
    char created;
    char canceled;
    char fragment;
    char rising;
} Response;

/* The classes of this module, as each interpreter has them. */
typedef struct {
    PyTypeObject *kv;
    PyTypeObject *event;
    PyTypeObject *response;
} State;

#define FIELD(owner, name, kind) {#name, kind, offsetof(owner, name), READONLY, NULL}

static PyMemberDef kv_members[] = {
    FIELD(KeyValue, key, T_OBJECT_EX),
    FIELD(KeyValue, value, T_OBJECT_EX),
    FIELD(KeyValue, create_revision, T_LONGLONG),
    FIELD(KeyValue, mod_revision, T_LONGLONG),
    FIELD(KeyValue, version, T_LONGLONG),
    FIELD(KeyValue, lease, T_LONGLONG),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef event_members[] = {
    FIELD(Event, type, T_OBJECT_EX),
    FIELD(Event, kv, T_OBJECT_EX),
    FIELD(Event, prev_kv, T_OBJECT_EX),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef response_members[] = {
    FIELD(Response, cancel_reason, T_OBJECT_EX),
    FIELD(Response, events, T_OBJECT_EX),
    FIELD(Response, cluster_id, T_ULONGLONG),
    FIELD(Response, member_id, T_ULONGLONG),
    FIELD(Response, revision, T_LONGLONG),
    FIELD(Response, raft_term, T_ULONGLONG),
    FIELD(Response, watch_id, T_LONGLONG),
    FIELD(Response, compact_revision, T_LONGLONG),
    FIELD(Response, first_revision, T_LONGLONG),
    FIELD(Response, last_revision, T_LONGLONG),
    FIELD(Response, size, T_PYSSIZET),
    FIELD(Response, created, T_BOOL),
    FIELD(Response, canceled, T_BOOL),
    FIELD(Response, fragment, T_BOOL),
    FIELD(Response, rising, T_BOOL),
    {NULL, 0, 0, 0, NULL},
};

/* Free an object whose fields are released; it holds its class. */
static void
free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

static void
kv_dealloc(PyObject *self)
{
    Py_XDECREF(((KeyValue *)self)->key);
    Py_XDECREF(((KeyValue *)self)->value);
    free_object(self);
}

static void
event_dealloc(PyObject *self)
{
    Py_XDECREF(((Event *)self)->type);
    Py_XDECREF(((Event *)self)->kv);
    Py_XDECREF(((Event *)self)->prev_kv);
    free_object(self);
}

static void
response_dealloc(PyObject *self)
{
    Py_XDECREF(((Response *)self)->cancel_reason);
    Py_XDECREF(((Response *)self)->events);
    free_object(self);
}

#define SPEC(prefix, fields, struct_name, text)                                          \
    static PyType_Slot prefix##_slots[] = {                                              \
        {Py_tp_doc, (void *)(text)},                                                     \
        {Py_tp_members, prefix##_members},                                               \
        {Py_tp_dealloc, (void *)prefix##_dealloc},                                       \
        {0, NULL},                                                                       \
    };                                                                                   \
    static PyType_Spec prefix##_spec = {                                                 \
        "trio_etcd_watch." fields,                                                       \
        sizeof(struct_name),                                                             \
        0,                                                                               \
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,                          \
        prefix##_slots,                                                                  \
    }

SPEC(kv, "KeyValue", KeyValue, "See _responses.py.");
SPEC(event, "Event", Event, "See _responses.py.");
SPEC(response, "RawResponse", Response, "See _responses.py.");

/* --- The wire format: https://protobuf.dev/programming-guides/encoding/ --- */

/* Bytes that are still to be read; at <= end. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Span;

enum { VARINT = 0, I64 = 1, LEN = 2, SGROUP = 3, EGROUP = 4, I32 = 5 };

/* A tag and what follows it: a number, or bytes. */
typedef struct {
    uint32_t tag;
    uint64_t number;
    Span bytes;
} Field;

#define TAG(field, wire_type) ((field) << 3 | (wire_type))

/* As upb has it: how deep messages and groups may lie in each other. */
#define MAX_DEPTH 100

/* Read a varint of at most `most` bytes; false if it is longer, or cut off. The tenth
 * byte has one bit to give, and the others are lost, as upb does it. */
static inline bool
read_varint(Span *in, int most, uint64_t *value)
{
    /* Tags, lengths and small numbers are one byte, and most varints are of these. */
    if (in->at < in->end && *in->at < 0x80) {
        *value = *in->at++;
        return true;
    }
    uint64_t result = 0;
    for (int i = 0; i < most && in->at < in->end; i++) {
        uint8_t byte = *in->at++;
        result |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            *value = result;
            return true;
        }
    }
    return false;
}

/* Read the bytes that a length announces; false if they are not there. */
static bool
read_bytes(Span *in, Span *bytes)
{
    uint64_t length;
    if (!read_varint(in, 5, &length) || length > (uint64_t)(in->end - in->at))
        return false;
    bytes->at = in->at;
    bytes->end = in->at += length;
    return true;
}

static bool
skip(Span *in, ptrdiff_t length)
{
    if (in->end - in->at < length)
        return false;
    in->at += length;
    return true;
}

/* Read a tag with what follows it; of a group that is nothing. Groups are not used by
 * etcd, and whoever reads on must skip them. */
static inline bool
read_field(Span *in, Field *field)
{
    uint64_t tag;
    if (!read_varint(in, 5, &tag) || tag > UINT32_MAX)
        return false;
    field->tag = (uint32_t)tag;
    switch (tag & 7) {
    case VARINT:
        return read_varint(in, 10, &field->number);
    case LEN:
        return read_bytes(in, &field->bytes);
    case I64:
        return skip(in, 8);
    case I32:
        return skip(in, 4);
    case SGROUP:
    case EGROUP:
        return true;
    default:
        return false;
    }
}

/* Skip a field that is none of ours, or not of its type: all is read already, unless it
 * begins a group. `depth` messages lie around it. There is no field 0, but upb does not
 * look for it inside of groups. */
static bool
skip_unknown(Span *in, const Field *unknown, int depth)
{
    uint32_t open[MAX_DEPTH];
    int count = 0;
    Field field = *unknown;
    if (field.tag >> 3 == 0)
        return false;
    for (;;) {
        if ((field.tag & 7) == SGROUP) {
            if (depth + count == MAX_DEPTH)
                return false;
            open[count++] = field.tag;
        }
        else if ((field.tag & 7) == EGROUP) {
            if (count == 0 || open[--count] >> 3 != field.tag >> 3)
                return false;
        }
        if (count == 0)
            return true;
        if (!read_field(in, &field))
            return false;
    }
}

/* --- The messages. Fields that come twice: the last one wins; messages are merged --- */

/* What a KeyValue's bytes say; its spans lie in the message. */
typedef struct {
    Span key;
    Span value;
    int64_t create_revision;
    int64_t mod_revision;
    int64_t version;
    int64_t lease;
} KeyValueBytes;

typedef struct {
    KeyValueBytes kv;
    KeyValueBytes prev_kv;
    bool has_prev_kv;
    int32_t type;
} EventBytes;

/* `depth` messages lie around it. */
static bool
read_key_value(Span in, KeyValueBytes *kv, int depth)
{
    Field field;
    while (in.at < in.end) {
        if (!read_field(&in, &field))
            return false;
        switch (field.tag) {
        case TAG(1, LEN):
            kv->key = field.bytes;
            break;
        case TAG(2, VARINT):
            kv->create_revision = (int64_t)field.number;
            break;
        case TAG(3, VARINT):
            kv->mod_revision = (int64_t)field.number;
            break;
        case TAG(4, VARINT):
            kv->version = (int64_t)field.number;
            break;
        case TAG(5, LEN):
            kv->value = field.bytes;
            break;
        case TAG(6, VARINT):
            kv->lease = (int64_t)field.number;
            break;
        default:
            if (!skip_unknown(&in, &field, depth))
                return false;
        }
    }
    return true;
}

static bool
read_event(Span in, EventBytes *event)
{
    Field field;
    while (in.at < in.end) {
        if (!read_field(&in, &field))
            return false;
        switch (field.tag) {
        case TAG(1, VARINT):
            event->type = (int32_t)(uint32_t)field.number;
            break;
        case TAG(2, LEN):
            if (!read_key_value(field.bytes, &event->kv, 2))
                return false;
            break;
        case TAG(3, LEN):
            event->has_prev_kv = true;
            if (!read_key_value(field.bytes, &event->prev_kv, 2))
                return false;
            break;
        default:
            if (!skip_unknown(&in, &field, 1))
                return false;
        }
    }
    return true;
}

static bool
read_header(Span in, Response *response)
{
    Field field;
    while (in.at < in.end) {
        if (!read_field(&in, &field))
            return false;
        switch (field.tag) {
        case TAG(1, VARINT):
            response->cluster_id = field.number;
            break;
        case TAG(2, VARINT):
            response->member_id = field.number;
            break;
        case TAG(3, VARINT):
            response->revision = (int64_t)field.number;
            break;
        case TAG(4, VARINT):
            response->raft_term = field.number;
            break;
        default:
            if (!skip_unknown(&in, &field, 1))
                return false;
        }
    }
    return true;
}

/* --- From what was read to objects --- */

/* What is made of the fields, as `_pure.Classes` has it. References are borrowed from
 * that tuple, which its caller holds. */
typedef struct {
    PyTypeObject *response;
    PyTypeObject *event;
    PyTypeObject *kv;
    PyObject *put;
    PyObject *delete;
    PyObject *unknown;
} Classes;

static PyObject *
bytes_of(Span span)
{
    return PyBytes_FromStringAndSize((const char *)span.at, span.end - span.at);
}

static PyObject *
new_key_value(PyTypeObject *type, const KeyValueBytes *from)
{
    KeyValue *kv = PyObject_New(KeyValue, type);
    if (kv == NULL)
        return NULL;
    kv->create_revision = from->create_revision;
    kv->mod_revision = from->mod_revision;
    kv->version = from->version;
    kv->lease = from->lease;
    kv->key = bytes_of(from->key);
    kv->value = bytes_of(from->value);
    if (kv->key == NULL || kv->value == NULL)
        Py_CLEAR(kv);
    return (PyObject *)kv;
}

static PyObject *
new_event(const Classes *classes, const EventBytes *from)
{
    Event *event = PyObject_New(Event, classes->event);
    if (event == NULL)
        return NULL;
    event->type = from->type == 0   ? classes->put
                  : from->type == 1 ? classes->delete
                                    : classes->unknown;
    Py_INCREF(event->type);
    event->kv = new_key_value(classes->kv, &from->kv);
    if (from->has_prev_kv)
        event->prev_kv = new_key_value(classes->kv, &from->prev_kv);
    else
        Py_INCREF(event->prev_kv = Py_None);
    if (event->kv == NULL || event->prev_kv == NULL)
        Py_CLEAR(event);
    return (PyObject *)event;
}

/* Read one event and append it; false, with or without an exception, if that fails. */
static bool
add_event(Span in, Response *response, PyObject *events, const Classes *classes)
{
    /* Not NULL: there is no arithmetic on null pointers. */
    static const uint8_t nothing[1];
    const KeyValueBytes empty = {.key = {nothing, nothing}, .value = {nothing, nothing}};
    EventBytes read = {.kv = empty, .prev_kv = empty};
    if (!read_event(in, &read))
        return false;
    int64_t revision = read.kv.mod_revision;
    if (PyList_Size(events) == 0)
        response->first_revision = revision;
    else if (revision <= response->last_revision)
        response->rising = false;
    response->last_revision = revision;
    PyObject *event = new_event(classes, &read);
    if (event == NULL)
        return false;
    bool added = PyList_Append(events, event) == 0;
    Py_DECREF(event);
    return added;
}

/* Read a string, which has to be UTF-8; false, with or without an exception, if not. */
static bool
set_cancel_reason(Span bytes, Response *response)
{
    PyObject *text =
        PyUnicode_DecodeUTF8((const char *)bytes.at, bytes.end - bytes.at, NULL);
    if (text == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
            PyErr_Clear();
        return false;
    }
    Py_XDECREF(response->cancel_reason);
    response->cancel_reason = text;
    return true;
}

/* Read one message into what earlier ones have said; false, with or without an
 * exception, if that fails. */
static bool
read_message(Span in, Response *response, PyObject *events, const Classes *classes)
{
    Field field;
    while (in.at < in.end) {
        if (!read_field(&in, &field))
            return false;
        switch (field.tag) {
        case TAG(1, LEN):
            if (!read_header(field.bytes, response))
                return false;
            break;
        case TAG(2, VARINT):
            response->watch_id = (int64_t)field.number;
            break;
        case TAG(3, VARINT):
            response->created = field.number != 0;
            break;
        case TAG(4, VARINT):
            response->canceled = field.number != 0;
            break;
        case TAG(5, VARINT):
            response->compact_revision = (int64_t)field.number;
            break;
        case TAG(6, LEN):
            if (!set_cancel_reason(field.bytes, response))
                return false;
            break;
        case TAG(7, VARINT):
            response->fragment = field.number != 0;
            break;
        case TAG(11, LEN):
            if (!add_event(field.bytes, response, events, classes))
                return false;
            break;
        default:
            if (!skip_unknown(&in, &field, 0))
                return false;
        }
    }
    return true;
}

/* What a RangeResponse says beside its keys, how many these are, and the last one. The
 * header's fields alone are used; it is no object. */
typedef struct {
    Response header;
    bool more;
    int64_t count;
    Py_ssize_t size;
    Span last_key;
} RangeHead;

/* Read one key, and put it into the mapping, if there is one; false, with or without an
 * exception, if that fails. A loop of its own over the new keys would take as long as
 * making them: here they are in the processor's cache. */
static bool
add_key_value(Span in, RangeHead *head, PyObject *kvs, PyTypeObject *type)
{
    static const uint8_t nothing[1];
    KeyValueBytes read = {.key = {nothing, nothing}, .value = {nothing, nothing}};
    if (!read_key_value(in, &read, 1))
        return false;
    head->size++;
    head->last_key = read.key;
    if (kvs == NULL)
        return true;
    PyObject *kv = new_key_value(type, &read);
    bool added = kv != NULL && PyDict_SetItem(kvs, ((KeyValue *)kv)->key, kv) == 0;
    Py_XDECREF(kv);
    return added;
}

/* Read a RangeResponse, and its keys into the mapping, if there is one; false, with or
 * without an exception, if that fails. */
static bool
read_range(Span in, RangeHead *head, PyObject *kvs, PyTypeObject *type)
{
    Field field;
    while (in.at < in.end) {
        if (!read_field(&in, &field))
            return false;
        switch (field.tag) {
        case TAG(1, LEN):
            if (!read_header(field.bytes, &head->header))
                return false;
            break;
        case TAG(2, LEN):
            if (!add_key_value(field.bytes, head, kvs, type))
                return false;
            break;
        case TAG(3, VARINT):
            head->more = field.number != 0;
            break;
        case TAG(4, VARINT):
            head->count = (int64_t)field.number;
            break;
        default:
            if (!skip_unknown(&in, &field, 0))
                return false;
        }
    }
    return true;
}

/* --- The functions, with every argument checked --- */

static bool
check_class(PyObject *object, PyTypeObject *expected)
{
    if (object == (PyObject *)expected)
        return true;
    PyErr_Format(PyExc_TypeError, "expected %R, got %R", expected, object);
    return false;
}

static bool
check_classes(PyObject *tuple, const State *state, Classes *classes)
{
    if (PyTuple_Size(tuple) != 6) {
        PyErr_Format(PyExc_TypeError, "classes must be six, got %R", tuple);
        return false;
    }
    classes->response = state->response;
    classes->event = state->event;
    classes->kv = state->kv;
    classes->put = PyTuple_GetItem(tuple, 3);
    classes->delete = PyTuple_GetItem(tuple, 4);
    classes->unknown = PyTuple_GetItem(tuple, 5);
    return check_class(PyTuple_GetItem(tuple, 0), state->response) &&
           check_class(PyTuple_GetItem(tuple, 1), state->event) &&
           check_class(PyTuple_GetItem(tuple, 2), state->kv);
}

/* Read all messages, and the list of their events. The bytes stay: a tuple holds them. */
static bool
read_messages(
    PyObject *messages, Response *response, PyObject *events, const Classes *classes)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(messages); i++) {
        char *data;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(messages, i), &data, &size) < 0)
            return false;
        Span in = {(const uint8_t *)data, (const uint8_t *)data + size};
        response->size += size;
        if (!read_message(in, response, events, classes)) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "%zd bytes are no watch response", size);
            return false;
        }
    }
    return true;
}

static PyObject *
decode(PyObject *module, PyObject *args)
{
    PyObject *messages, *tuple;
    Classes classes;
    if (!PyArg_ParseTuple(args, "O!O!:decode", &PyTuple_Type, &messages,
                          &PyTuple_Type, &tuple) ||
        !check_classes(tuple, PyModule_GetState(module), &classes))
        return NULL;
    Response *response = (Response *)PyType_GenericAlloc(classes.response, 0);
    if (response == NULL)
        return NULL;
    PyObject *events = PyList_New(0);
    response->rising = true;
    response->cancel_reason = PyUnicode_FromString("");
    if (events == NULL || response->cancel_reason == NULL ||
        !read_messages(messages, response, events, &classes) ||
        (response->events = PyList_AsTuple(events)) == NULL)
        Py_CLEAR(response);
    Py_XDECREF(events);
    return (PyObject *)response;
}

/* Read a RangeResponse, and its keys into the mapping, if there is one; false, with an
 * exception, if that fails. */
static bool
read_reply(PyObject *message, RangeHead *head, PyObject *kvs, PyTypeObject *type)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AsString(message);
    Py_ssize_t size = PyBytes_Size(message);
    *head = (RangeHead){.last_key = {data, data}};
    if (read_range((Span){data, data + size}, head, kvs, type))
        return true;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "%zd bytes are no range response", size);
    return false;
}

static PyObject *
decode_range(PyObject *Py_UNUSED(module), PyObject *message)
{
    RangeHead head;
    if (!PyBytes_Check(message))
        return PyErr_Format(PyExc_TypeError, "expected bytes, got %R", message);
    if (!read_reply(message, &head, NULL, NULL))
        return NULL;
    const Response *header = &head.header;
    return Py_BuildValue("KKLKNLnNO", header->cluster_id, header->member_id,
                         header->revision, header->raft_term,
                         PyBool_FromLong(head.more), (long long)head.count, head.size,
                         bytes_of(head.last_key), message);
}

static PyObject *
put_range(PyObject *module, PyObject *args)
{
    PyObject *mapping, *message, *type;
    RangeHead head;
    const State *state = PyModule_GetState(module);
    if (!PyArg_ParseTuple(args, "O!SO:put_range", &PyDict_Type, &mapping, &message,
                          &type) ||
        !check_class(type, state->kv) ||
        !read_reply(message, &head, mapping, state->kv))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
join(PyObject *Py_UNUSED(module), PyObject *parts)
{
    PyObject *events = PyList_New(0);
    PyObject *iterator = events == NULL ? NULL : PyObject_GetIter(parts);
    PyObject *part, *tuple = NULL;
    while (iterator != NULL && (part = PyIter_Next(iterator)) != NULL) {
        Py_ssize_t size = PyList_Size(events);
        int failed = PyList_SetSlice(events, size, size, part);
        Py_DECREF(part);
        if (failed)
            break;
    }
    if (iterator != NULL && !PyErr_Occurred())
        tuple = PyList_AsTuple(events);
    Py_XDECREF(iterator);
    Py_XDECREF(events);
    return tuple;
}

static PyObject *
make_key_value(PyObject *module, PyObject *args)
{
    PyObject *type;
    const char *key, *value;
    Py_ssize_t key_size, value_size;
    long long create_revision, mod_revision, version, lease;
    const State *state = PyModule_GetState(module);
    if (!PyArg_ParseTuple(args, "Oy#y#LLLL:make_key_value", &type, &key, &key_size,
                          &value, &value_size, &create_revision, &mod_revision,
                          &version, &lease) ||
        !check_class(type, state->kv))
        return NULL;
    const KeyValueBytes read = {
        .key = {(const uint8_t *)key, (const uint8_t *)key + key_size},
        .value = {(const uint8_t *)value, (const uint8_t *)value + value_size},
        .create_revision = create_revision,
        .mod_revision = mod_revision,
        .version = version,
        .lease = lease,
    };
    return new_key_value(state->kv, &read);
}

static PyObject *
make_event(PyObject *module, PyObject *args)
{
    PyObject *type, *kind, *kv, *prev_kv;
    const State *state = PyModule_GetState(module);
    if (!PyArg_ParseTuple(args, "OO!O!O:make_event", &type, &PyLong_Type, &kind,
                          state->kv, &kv, &prev_kv) ||
        !check_class(type, state->event))
        return NULL;
    if (prev_kv != Py_None && !PyObject_TypeCheck(prev_kv, state->kv)) {
        PyErr_Format(PyExc_TypeError, "prev_kv must be a key or None, got %R", prev_kv);
        return NULL;
    }
    Event *event = PyObject_New(Event, state->event);
    if (event == NULL)
        return NULL;
    Py_INCREF(event->type = kind);
    Py_INCREF(event->kv = kv);
    Py_INCREF(event->prev_kv = prev_kv);
    return (PyObject *)event;
}

/* --- The chain of a key --- */

/* Whether this put finds the version before its own, of the same creation. */
static bool
continues(const KeyValue *kv, const KeyValue *old)
{
    return old->version < LLONG_MAX && kv->version == old->version + 1 &&
           kv->create_revision == old->create_revision;
}

static bool
same_bytes(PyObject *one, PyObject *other)
{
    Py_ssize_t size = PyBytes_Size(one);
    return size == PyBytes_Size(other) &&
           memcmp(PyBytes_AsString(one), PyBytes_AsString(other), size) == 0;
}

/* Put it in place of what is there, if it continues that: 1 if so, 0 if not, -1 with an
 * exception. No reference is borrowed where a dict may run code of its keys. The dict
 * keeps the key that it has, so the new one gets that too: it is equal, and held once. */
static int
put_one(PyObject *mapping, KeyValue *kv, PyObject *olds, PyTypeObject *type)
{
    PyObject *old = PyDict_GetItemWithError(mapping, kv->key);
    if (old == NULL)
        return PyErr_Occurred() ? -1 : 0;
    if (!check_class((PyObject *)Py_TYPE(old), type))
        return -1;
    if (!continues(kv, (KeyValue *)old))
        return 0;
    Py_INCREF(old);
    int known = PyDict_Contains(olds, kv->key);
    int failed = known < 0 || (!known && PyDict_SetItem(olds, kv->key, old) < 0) ||
                 PyDict_SetItem(mapping, kv->key, (PyObject *)kv) < 0;
    if (!failed && same_bytes(kv->key, ((KeyValue *)old)->key)) {
        PyObject *key = kv->key;
        Py_INCREF(kv->key = ((KeyValue *)old)->key);
        Py_DECREF(key);
    }
    Py_DECREF(old);
    return failed ? -1 : 1;
}

static PyObject *
put_again(PyObject *module, PyObject *args)
{
    PyObject *mapping, *events, *olds, *put, *object;
    long long known, revision = 0;
    const State *state = PyModule_GetState(module);
    if (!PyArg_ParseTuple(args, "O!OLO!O:put_again", &PyDict_Type, &mapping, &events,
                          &known, &PyDict_Type, &olds, &put))
        return NULL;
    if (!PyIter_Check(events))
        return PyErr_Format(PyExc_TypeError, "expected an iterator, got %R", events);
    while ((object = PyIter_Next(events)) != NULL) {
        const Event *event = (Event *)object;
        int done = check_class((PyObject *)Py_TYPE(object), state->event) ? 1 : -1;
        KeyValue *kv = done < 0 ? NULL : (KeyValue *)event->kv;
        if (done > 0 && kv->mod_revision > known) {
            done = event->type == put ? put_one(mapping, kv, olds, state->kv) : 0;
            if (done > 0)
                revision = kv->mod_revision;
        }
        if (done == 0)
            return Py_BuildValue("NL", object, revision);
        Py_DECREF(object);
        if (done < 0)
            return NULL;
    }
    return PyErr_Occurred() ? NULL : Py_BuildValue("OL", Py_None, revision);
}

/* --- Frames: https://www.rfc-editor.org/rfc/rfc9113#section-4.1 --- */

/* A frame's length and type, flags and stream; a gRPC message's compressed flag and
 * length. Flags to compressed flag are compared as they stand. */
enum { HEAD = 14, WHOSE_AT = 4, WHOSE = 6, SIZE_AT = 10, PREFIX = 5 };

static uint32_t
read_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* The size of the message that begins at `in`, if that is a frame with one whole message
 * for `whose`, of at most `limit` bytes; -1 if it is anything else, or not all there. */
static Py_ssize_t
whole_message(Span in, const char *whose, Py_ssize_t limit)
{
    if (in.end - in.at < HEAD || memcmp(in.at + WHOSE_AT, whose, WHOSE) != 0)
        return -1;
    uint32_t size = read_u32(in.at + SIZE_AT);
    /* The last byte of the word is the type, and that of DATA is 0. */
    if (read_u32(in.at) != ((uint64_t)size + PREFIX) << 8 || size > limit ||
        size > in.end - in.at - HEAD)
        return -1;
    return (Py_ssize_t)size;
}

static PyObject *
take_messages(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *buffer;
    Py_ssize_t start, whose_size, limit, size;
    const char *whose;
    if (!PyArg_ParseTuple(args, "Sny#n:take_messages", &buffer, &start, &whose,
                          &whose_size, &limit))
        return NULL;
    const uint8_t *data = (const uint8_t *)PyBytes_AsString(buffer);
    Py_ssize_t end = PyBytes_Size(buffer);
    if (start < 0 || start > end || whose_size != WHOSE) {
        PyErr_Format(PyExc_ValueError, "start is %zd of %zd bytes, whose has %zd", start,
                     end, whose_size);
        return NULL;
    }
    PyObject *messages = PyList_New(0);
    Span in = {data + start, data + end};
    while (messages != NULL && (size = whole_message(in, whose, limit)) >= 0) {
        Span message = {in.at + HEAD, in.at + HEAD + size};
        PyObject *bytes = bytes_of(message);
        if (bytes == NULL || PyList_Append(messages, bytes) < 0)
            Py_CLEAR(messages);
        Py_XDECREF(bytes);
        in.at = message.end;
    }
    return messages == NULL ? NULL : Py_BuildValue("Nn", messages, in.at - data);
}

/* --- The module --- */

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, "Decode messages; several are merged into one."},
    {"decode_range", decode_range, METH_O, "Decode a page of a range, but for its keys."},
    {"join", join, METH_O, "Return the events of several responses as one sequence."},
    {"make_event", make_event, METH_VARARGS, "Make an event of its fields."},
    {"make_key_value", make_key_value, METH_VARARGS, "Make a key of its fields."},
    {"put_again", put_again, METH_VARARGS, "Put what continues its key into a mapping."},
    {"put_range", put_range, METH_VARARGS, "Put the keys of a page into a mapping."},
    {"take_messages", take_messages, METH_VARARGS, "Take frames of one message each."},
    {NULL, NULL, 0, NULL},
};

/* Make a class, and put it where `decode()` and users of the module find it. */
static int
add_class(PyObject *module, PyType_Spec *spec, PyTypeObject **place)
{
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *place == NULL ? -1 : PyModule_AddType(module, *place);
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    if (add_class(module, &kv_spec, &state->kv) < 0 ||
        add_class(module, &event_spec, &state->event) < 0 ||
        /* The same number stands in _twins.py, which refuses any other. */
        PyModule_AddIntConstant(module, "ABI", 4) < 0)
        return -1;
    return add_class(module, &response_spec, &state->response);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->kv);
    Py_VISIT(state->event);
    Py_VISIT(state->response);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->kv);
    Py_CLEAR(state->event);
    Py_CLEAR(state->response);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "trio_etcd_watch._speedups",
    .m_doc = "From bytes to values, in C.",
    .m_size = sizeof(State),
    .m_methods = methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module_definition);
}
