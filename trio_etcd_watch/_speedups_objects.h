/* Makes objects of decoded fields: a watch response, but for its events, and a page of
 * a range with its keys.
 */
#ifndef TRIO_ETCD_WATCH_OBJECTS_H
#define TRIO_ETCD_WATCH_OBJECTS_H

#include "_speedups_messages.h"

/* The bytes of some events; `items` is of PyMem. */
typedef struct {
    Span *items;
    Py_ssize_t count;
    Py_ssize_t room;
} Spans;

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
    kv->create_revision = (int64_t)from->create_revision;
    kv->mod_revision = (int64_t)from->mod_revision;
    kv->version = (int64_t)from->version;
    kv->lease = (int64_t)from->lease;
    kv->key = bytes_of(from->key);
    kv->value = bytes_of(from->value);
    if (kv->key == NULL || kv->value == NULL)
        Py_CLEAR(kv);
    return (PyObject *)kv;
}

static bool
append_span(Spans *spans, Span span)
{
    if (spans->count == spans->room) {
        Py_ssize_t room = spans->room * 2 + 1;
        Span *items = PyMem_Resize(spans->items, Span, room);
        if (items == NULL) {
            PyErr_NoMemory();
            return false;
        }
        spans->items = items;
        spans->room = room;
    }
    spans->items[spans->count++] = span;
    return true;
}

/* Check that an event can be decoded, and append its bytes; false, with or without an
 * exception, if that fails. */
static bool
add_event(Span in, Response *response, Spans *events)
{
    EventBytes read = no_event();
    if (!read_event(in, &read))
        return false;
    int64_t revision = (int64_t)read.kv.mod_revision;
    if (events->count == 0)
        response->first_revision = revision;
    else if (revision <= response->last_revision)
        response->rising = false;
    response->last_revision = revision;
    return append_span(events, in);
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
take_field(Span *in, const Field *field, Response *response, Spans *events)
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
        return add_event(field->bytes, response, events);
    default:
        return skip_unknown(in, field, 0);
    }
}

/* Decode one message, and merge it into the response; false, with or without an
 * exception, if that fails. */
static bool
read_message(Span in, Response *response, Spans *events)
{
    Field field;
    while (in.at < in.end) {
        if (!read_field(&in, &field) || !take_field(&in, &field, response, events))
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
    KeyValueBytes read = no_key_value();
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
