/* Splits the messages of one read into batches: the twin of `split_batches` in
 * _batches.py, which says what a batch is.
 */
#ifndef TRIO_ETCD_WATCH_BATCHES_H
#define TRIO_ETCD_WATCH_BATCHES_H

#include "_speedups_objects.h"

#include <string.h>

/* The largest message that may join a batch, and the longest header, whose length takes
 * one byte. */
enum { MAX_BATCHED = 4096, MAX_HEADER = 127 };

static bool
has_only_events(Span in)
{
    uint64_t size;
    while (in.at < in.end) {
        if (*in.at++ != TAG(11, LEN) || !read_varint(&in, 2, &size) ||
            !skip(&in, (ptrdiff_t)size))
            return false;
    }
    return true;
}

/* Find the bytes of the watch id and of the tag of the first event; false if the
 * message is large, or has anything but a header, a watch id and events, in this order.
 */
static bool
find_mark(Span in, Span *mark)
{
    uint64_t watch_id;
    if (in.end - in.at < 2 || in.end - in.at > MAX_BATCHED ||
        in.at[0] != TAG(1, LEN) || in.at[1] > MAX_HEADER || !skip(&in, 2 + in.at[1]))
        return false;
    mark->at = in.at;
    if (in.at < in.end && *in.at == TAG(2, VARINT)) {
        in.at++;
        /* Equal ids have equal bytes: 63 bits, no superfluous byte, and no 0. */
        if (!read_varint(&in, 9, &watch_id) || in.at[-1] == 0)
            return false;
    }
    mark->end = in.at + 1;
    return in.at < in.end && has_only_events(in);
}

static bool
same_span(Span one, Span other)
{
    ptrdiff_t size = one.end - one.at;
    return size == other.end - other.at && memcmp(one.at, other.at, size) == 0;
}

/* The place of the batch with this mark, which is `next` if there is none yet; -1 with an
 * exception. */
static Py_ssize_t
place_of(Span mark, PyObject *places, Py_ssize_t next)
{
    PyObject *key = bytes_of(mark);
    PyObject *place = key == NULL ? NULL : PyDict_GetItemWithError(places, key);
    Py_ssize_t result = -1;
    if (place != NULL)
        result = PyLong_AsSsize_t(place);
    else if (!PyErr_Occurred() && (place = PyLong_FromSsize_t(next)) != NULL) {
        result = PyDict_SetItem(places, key, place) < 0 ? -1 : next;
        Py_DECREF(place);
    }
    Py_XDECREF(key);
    return result;
}

/* Add a message to the batch at this place, which may be the end. A single message is
 * not put into a list: it would be an object that the garbage collector tracks. */
static bool
add_to_batch(PyObject *batches, Py_ssize_t place, PyObject *message)
{
    if (place == PyList_Size(batches))
        return PyList_Append(batches, message) == 0;
    PyObject *batch = PyList_GetItem(batches, place);
    if (!PyBytes_Check(batch))
        return PyList_Append(batch, message) == 0;
    PyObject *list = PyList_New(0);
    if (list == NULL || PyList_Append(list, batch) < 0 ||
        PyList_Append(list, message) < 0) {
        Py_XDECREF(list);
        return false;
    }
    return PyList_SetItem(batches, place, list) == 0;
}

/* Append the messages to batches; false, with an exception, if that fails. The tuple
 * keeps the bytes alive into which the marks point. */
static bool
append_batches(PyObject *messages, PyObject *places, PyObject *batches)
{
    Py_ssize_t place = -1;
    Span mark = {NULL, NULL}, found;
    for (Py_ssize_t i = 0; i < PyTuple_Size(messages); i++) {
        PyObject *message = PyTuple_GetItem(messages, i);
        if (!PyBytes_Check(message) || !find_mark(span_of(message), &found)) {
            PyDict_Clear(places);
            place = -1;
            if (PyList_Append(batches, message) < 0)
                return false;
            continue;
        }
        if (place < 0 || !same_span(found, mark)) {
            mark = found;
            place = place_of(mark, places, PyList_Size(batches));
        }
        if (place < 0 || !add_to_batch(batches, place, message))
            return false;
    }
    return true;
}

static PyObject *
split_batches(PyObject *Py_UNUSED(module), PyObject *read)
{
    PyObject *messages = PySequence_Tuple(read);
    PyObject *places = PyDict_New();
    PyObject *batches = PyList_New(0);
    if (messages == NULL || places == NULL || batches == NULL ||
        !append_batches(messages, places, batches))
        Py_CLEAR(batches);
    Py_XDECREF(places);
    Py_XDECREF(messages);
    return batches;
}

#endif
