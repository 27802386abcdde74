/* Defines the classes of the values and their fields; _responses.py adds the methods.
 * That of the sequence of events is in _speedups_events.h.
 *
 * The garbage collector does not track these objects: they hold bytes, numbers and each
 * other, and form no cycle.
 */
#ifndef TRIO_ETCD_WATCH_VALUES_H
#define TRIO_ETCD_WATCH_VALUES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* The classes of this module; each interpreter has its own. */
typedef struct {
    PyTypeObject *kv;
    PyTypeObject *event;
    PyTypeObject *response;
    PyTypeObject *sequence;
    PyTypeObject *iterator;
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

/* Free an object whose fields are released, and release its class. */
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

/* A function as the value of a slot. ISO C converts it to void * only through a
 * number. */
#define SLOT(function) ((void *)(uintptr_t)(function))

#define SPEC(prefix, fields, struct_name, text)                                          \
    static PyType_Slot prefix##_slots[] = {                                              \
        {Py_tp_doc, (void *)(text)},                                                     \
        {Py_tp_members, prefix##_members},                                               \
        {Py_tp_dealloc, SLOT(prefix##_dealloc)},                                         \
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

static bool
check_class(PyObject *object, PyTypeObject *expected)
{
    if (object == (PyObject *)expected)
        return true;
    PyErr_Format(PyExc_TypeError, "expected %R, got %R", expected, object);
    return false;
}

#endif
