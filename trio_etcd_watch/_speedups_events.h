/* Holds the events of messages as their bytes, and makes each event when it is accessed:
 * the twin of `EventSequence` and `join` in _pure.py.
 *
 * Hundreds of events made at once have left the processor's cache before they are used.
 * One that is made, used and freed in turn stays in it.
 */
#ifndef TRIO_ETCD_WATCH_EVENTS_H
#define TRIO_ETCD_WATCH_EVENTS_H

#include "_speedups_objects.h"

typedef struct {
    PyObject_HEAD
    /* The tuple that was given to `decode`. */
    PyObject *classes;
    /* A tuple of the bytes objects into which the spans point. */
    PyObject *messages;
    Py_ssize_t count;
    Span *spans;
} EventSequence;

/* The classes to make, and the types of events; the same as `_pure.Classes`. References
 * are borrowed from that tuple, and from the module. */
typedef struct {
    PyTypeObject *event;
    PyTypeObject *kv;
    PyObject *put;
    PyObject *delete;
    PyObject *unknown;
} Classes;

typedef struct {
    PyObject_HEAD
    EventSequence *sequence;
    Py_ssize_t next;
    Classes classes;
} EventIterator;

static Classes
classes_of(EventSequence *sequence)
{
    const State *state = PyType_GetModuleState(Py_TYPE((PyObject *)sequence));
    return (Classes){
        .event = state->event,
        .kv = state->kv,
        .put = PyTuple_GetItem(sequence->classes, 3),
        .delete = PyTuple_GetItem(sequence->classes, 4),
        .unknown = PyTuple_GetItem(sequence->classes, 5),
    };
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

/* Make an event of its bytes. They are valid, as `add_event` has checked. */
static PyObject *
event_of(Span in, const Classes *classes)
{
    EventBytes read = no_event();
    (void)read_event(in, &read);
    return new_event(classes, &read);
}

/* Make a sequence of events, which owns the array of their spans from now on. These
 * point into the bytes objects of the tuple `messages`. */
static PyObject *
new_sequence(const State *state, PyObject *classes, PyObject *messages, Spans events)
{
    EventSequence *sequence = PyObject_New(EventSequence, state->sequence);
    if (sequence == NULL) {
        PyMem_Free(events.items);
        return NULL;
    }
    Py_INCREF(sequence->classes = classes);
    /* Without events, no bytes are needed. */
    sequence->messages = events.count > 0 ? Py_NewRef(messages) : PyTuple_New(0);
    sequence->count = events.count;
    sequence->spans = events.items;
    return (PyObject *)sequence;
}

static void
sequence_dealloc(PyObject *self)
{
    EventSequence *sequence = (EventSequence *)self;
    PyMem_Free(sequence->spans);
    Py_DECREF(sequence->classes);
    Py_DECREF(sequence->messages);
    free_object(self);
}

static Py_ssize_t
sequence_length(PyObject *self)
{
    return ((EventSequence *)self)->count;
}

/* Python has made a negative index relative to the start. */
static PyObject *
sequence_item(PyObject *self, Py_ssize_t index)
{
    EventSequence *sequence = (EventSequence *)self;
    if (index < 0 || index >= sequence->count)
        return PyErr_Format(PyExc_IndexError, "there are %zd events",
                            sequence->count);
    const Classes classes = classes_of(sequence);
    return event_of(sequence->spans[index], &classes);
}

static PyObject *
sequence_slice(PyObject *self, PyObject *slice)
{
    const EventSequence *from = (EventSequence *)self;
    Spans part = {NULL, 0, 0};
    Py_ssize_t start, stop, step;
    if (PySlice_Unpack(slice, &start, &stop, &step) < 0)
        return NULL;
    Py_ssize_t count = PySlice_AdjustIndices(from->count, &start, &stop, step);
    /* Unsigned, as the sum after the last one may wrap around. */
    for (size_t at = (size_t)start; part.count < count; at += (size_t)step) {
        if (!append_span(&part, from->spans[at])) {
            PyMem_Free(part.items);
            return NULL;
        }
    }
    const State *state = PyType_GetModuleState(Py_TYPE(self));
    return new_sequence(state, from->classes, from->messages, part);
}

static PyObject *
sequence_subscript(PyObject *self, PyObject *key)
{
    if (PySlice_Check(key))
        return sequence_slice(self, key);
    Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    return sequence_item(self, index < 0 ? index + sequence_length(self) : index);
}

static PyObject *
sequence_iter(PyObject *self)
{
    const State *state = PyType_GetModuleState(Py_TYPE(self));
    EventIterator *iterator = PyObject_New(EventIterator, state->iterator);
    if (iterator == NULL)
        return NULL;
    Py_INCREF(self);
    iterator->sequence = (EventSequence *)self;
    iterator->classes = classes_of(iterator->sequence);
    iterator->next = 0;
    return (PyObject *)iterator;
}

static PyObject *
iterator_next(PyObject *self)
{
    EventIterator *iterator = (EventIterator *)self;
    const EventSequence *sequence = iterator->sequence;
    if (iterator->next >= sequence->count)
        return NULL;
    return event_of(sequence->spans[iterator->next++], &iterator->classes);
}

static void
iterator_dealloc(PyObject *self)
{
    Py_DECREF((PyObject *)((EventIterator *)self)->sequence);
    free_object(self);
}

static PyType_Slot sequence_slots[] = {
    {Py_tp_doc, (void *)"See _pure.py."},
    {Py_tp_dealloc, SLOT(sequence_dealloc)},
    {Py_tp_iter, SLOT(sequence_iter)},
    {Py_sq_length, SLOT(sequence_length)},
    {Py_sq_item, SLOT(sequence_item)},
    {Py_mp_subscript, SLOT(sequence_subscript)},
    {0, NULL},
};
static PyType_Spec sequence_spec = {
    "trio_etcd_watch.EventSequence",
    sizeof(EventSequence),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    sequence_slots,
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, (void *)"Iterates over an EventSequence."},
    {Py_tp_dealloc, SLOT(iterator_dealloc)},
    {Py_tp_iter, SLOT(PyObject_SelfIter)},
    {Py_tp_iternext, SLOT(iterator_next)},
    {0, NULL},
};
static PyType_Spec iterator_spec = {
    "trio_etcd_watch.EventIterator",
    sizeof(EventIterator),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    iterator_slots,
};

/* Append the events of a part, and its messages. */
static bool
append_part(PyObject *object, const State *state, Spans *events, PyObject *messages)
{
    if (!check_class((PyObject *)Py_TYPE(object), state->sequence))
        return false;
    const EventSequence *part = (EventSequence *)object;
    for (Py_ssize_t i = 0; i < part->count; i++) {
        if (!append_span(events, part->spans[i]))
            return false;
    }
    Py_ssize_t size = PyList_Size(messages);
    return PyList_SetSlice(messages, size, size, part->messages) == 0;
}

static PyObject *
join(PyObject *module, PyObject *arg)
{
    const State *state = PyModule_GetState(module);
    PyObject *parts = PySequence_Tuple(arg);
    PyObject *messages = PyList_New(0);
    PyObject *tuple = NULL, *joined = NULL;
    Spans events = {NULL, 0, 0};
    bool failed = parts == NULL || messages == NULL;
    for (Py_ssize_t i = 0; !failed && i < PyTuple_Size(parts); i++)
        failed = !append_part(PyTuple_GetItem(parts, i), state, &events, messages);
    if (!failed && PyTuple_Size(parts) == 0)
        failed = PyErr_Format(PyExc_ValueError, "no part to join") == NULL;
    if (!failed && (tuple = PyList_AsTuple(messages)) != NULL)
        joined = new_sequence(
            state, ((EventSequence *)PyTuple_GetItem(parts, 0))->classes, tuple, events);
    else
        PyMem_Free(events.items);
    Py_XDECREF(parts);
    Py_XDECREF(messages);
    Py_XDECREF(tuple);
    return joined;
}

#endif
