/* Makes objects of decoded fields: a watch response with its events, and a page of a
 * range with its keys.
 */
#ifndef TRIO_ETCD_WATCH_OBJECTS_H
#define TRIO_ETCD_WATCH_OBJECTS_H

#include "_speedups_messages.h"

/* The classes to make, and the types of events; the same as `_pure.Classes`. References
 * are borrowed from that tuple, which the caller holds. */
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

/* The content of a bytes object. */
static Span
span_of(PyObject *bytes)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AsString(bytes);
    return (Span){data, data + PyBytes_Size(bytes)};
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

/* Decode one event and append it; false, with or without an exception, if that
 * fails. */
static bool
add_event(Span in, Response *response, PyObject *events, const Classes *classes)
{
    /* Not NULL, since arithmetic on null pointers is undefined. */
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

/* Decode a string, which must be UTF-8; false, with or without an exception, if that
 * fails. */
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

/* Store one field of a message, which is already read; false, with or without an
 * exception, if that fails. */
static inline bool
take_field(Span *in, const Field *field, Response *response, PyObject *events,
           const Classes *classes)
{
    switch (field->tag) {
    case TAG(1, LEN):
        return read_header(field->bytes, response);
    case TAG(2, VARINT):
        response->watch_id = (int64_t)field->number;
        return true;
    case TAG(3, VARINT):
        response->created = field->number != 0;
        return true;
    case TAG(4, VARINT):
        response->canceled = field->number != 0;
        return true;
    case TAG(5, VARINT):
        response->compact_revision = (int64_t)field->number;
        return true;
    case TAG(6, LEN):
        return set_cancel_reason(field->bytes, response);
    case TAG(7, VARINT):
        response->fragment = field->number != 0;
        return true;
    case TAG(11, LEN):
        return add_event(field->bytes, response, events, classes);
    default:
        return skip_unknown(in, field, 0);
    }
}

/* Decode one message, and merge it into the response; false, with or without an
 * exception, if that fails. */
static bool
read_message(Span in, Response *response, PyObject *events, const Classes *classes)
{
    Field field;
    while (in.at < in.end) {
        if (!read_field(&in, &field) ||
            !take_field(&in, &field, response, events, classes))
            return false;
    }
    return true;
}

/* The fields of a RangeResponse other than its keys, the number of these, and the last
 * key. Only the fields of the header are used of `header`, which is not an object. */
typedef struct {
    Response header;
    bool more;
    int64_t count;
    Py_ssize_t size;
    Span last_key;
} RangeHead;

/* Decode one key, and put it into the mapping if there is one; false, with or without
 * an exception, if that fails. A separate loop over the new keys would take as long as
 * making them, since they would no longer be in the processor's cache. */
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

/* Decode a RangeResponse, and put its keys into the mapping if there is one; false,
 * with or without an exception, if that fails. */
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

#endif
