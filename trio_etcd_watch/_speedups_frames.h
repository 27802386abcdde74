/* Takes messages from frames (https://www.rfc-editor.org/rfc/rfc9113#section-4.1): the
 * twin of `take_messages` in _grpc/messages.py.
 */
#ifndef TRIO_ETCD_WATCH_FRAMES_H
#define TRIO_ETCD_WATCH_FRAMES_H

#include "_speedups_objects.h"

#include <string.h>

/* The head of a frame with a message: length and type, flags and stream of the frame,
 * then compressed flag and length of the gRPC message. The bytes from the flags to the
 * compressed flag are compared with `whose`. */
enum { HEAD = 14, WHOSE_AT = 4, WHOSE = 6, SIZE_AT = 10, PREFIX = 5 };

static uint32_t
read_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* The size of the message in the frame at `in`, if that has exactly one message, its
 * head matches `whose`, and the message is complete and of at most `limit` bytes;
 * otherwise -1. */
static Py_ssize_t
whole_message(Span in, const char *whose, Py_ssize_t limit)
{
    if (in.end - in.at < HEAD || memcmp(in.at + WHOSE_AT, whose, WHOSE) != 0)
        return -1;
    uint32_t size = read_u32(in.at + SIZE_AT);
    /* The last byte of the word is the type, which is 0 for DATA. */
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

#endif
