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

/* The batch of a mark, which is created at the end of `batches` if there is none yet; a
 * borrowed reference, NULL with an exception. */
static PyObject *
batch_of(Span mark, PyObject *by_mark, PyObject *batches)
{
    PyObject *key = bytes_of(mark);
    PyObject *batch = key == NULL ? NULL : PyDict_GetItemWithError(by_mark, key);
    if (batch == NULL && !PyErr_Occurred() && (batch = PyList_New(0)) != NULL) {
        int failed = PyDict_SetItem(by_mark, key, batch) < 0 ||
                     PyList_Append(batches, batch) < 0;
        /* Both hold it now, unless that failed. */
        Py_DECREF(batch);
        batch = failed ? NULL : batch;
    }
    Py_XDECREF(key);
    return batch;
}

/* Append a message that joins no batch: as a batch of its own, or as it is if it is not
 * bytes. */
static bool
append_lone(PyObject *batches, PyObject *message)
{
    if (!PyBytes_Check(message))
        return PyList_Append(batches, message) == 0;
    PyObject *batch = PyList_New(0);
    bool done = batch != NULL && PyList_Append(batch, message) == 0 &&
                PyList_Append(batches, batch) == 0;
    Py_XDECREF(batch);
    return done;
}

/* Append the messages to batches; false, with an exception, if that fails. The tuple
 * keeps the bytes alive into which the marks point. */
static bool
append_batches(PyObject *messages, PyObject *by_mark, PyObject *batches)
{
    PyObject *batch = NULL;
    Span mark = {NULL, NULL}, found;
    for (Py_ssize_t i = 0; i < PyTuple_Size(messages); i++) {
        PyObject *message = PyTuple_GetItem(messages, i);
        if (!PyBytes_Check(message) || !find_mark(span_of(message), &found)) {
            PyDict_Clear(by_mark);
            batch = NULL;
            if (!append_lone(batches, message))
                return false;
            continue;
        }
        if (batch == NULL || !same_span(found, mark)) {
            mark = found;
            batch = batch_of(mark, by_mark, batches);
        }
        if (batch == NULL || PyList_Append(batch, message) < 0)
            return false;
    }
    return true;
}

static PyObject *
split_batches(PyObject *Py_UNUSED(module), PyObject *read)
{
    PyObject *messages = PySequence_Tuple(read);
    PyObject *by_mark = PyDict_New();
    PyObject *batches = PyList_New(0);
    if (messages == NULL || by_mark == NULL || batches == NULL ||
        !append_batches(messages, by_mark, batches))
        Py_CLEAR(batches);
    Py_XDECREF(by_mark);
    Py_XDECREF(messages);
    return batches;
}

#endif
