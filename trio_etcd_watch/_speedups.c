/* Decodes bytes into values. This is the twin of _pure.py, with the same names, of
 * `take_messages` in _grpc/messages.py, of `split_batches` in _batches.py and of
 * `put_again` in _chain.py.
 *
 * Messages are decoded directly into the objects that users get. For any bytes the
 * result is that of protobuf's own parser (upb): the same values, or an error from
 * both. What upb accepts although the encoding does not permit it is accepted here,
 * too, with a comment at each such place.
 *
 * The parts are headers, so that they form one translation unit, in which the compiler
 * inlines across them.
 */
#include "_speedups_values.h"

#include "_speedups_batches.h"
#include "_speedups_chain.h"
#include "_speedups_events.h"
#include "_speedups_frames.h"
#include "_speedups_messages.h"
#include "_speedups_objects.h"
#include "_speedups_wire.h"

/* --- The functions, with every argument checked --- */

static bool
check_classes(PyObject *tuple, const State *state)
{
    if (PyTuple_Size(tuple) != 6) {
        PyErr_Format(PyExc_TypeError, "classes must be six, got %R", tuple);
        return false;
    }
    return check_class(PyTuple_GetItem(tuple, 0), state->response) &&
           check_class(PyTuple_GetItem(tuple, 1), state->event) &&
           check_class(PyTuple_GetItem(tuple, 2), state->kv);
}

/* Decode all messages, and append their events. The tuple keeps their bytes alive. */
static bool
read_messages(PyObject *messages, Response *response, Spans *events)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(messages); i++) {
        char *data;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(messages, i), &data, &size) < 0)
            return false;
        Span in = {(const uint8_t *)data, (const uint8_t *)data + size};
        response->size += size;
        if (!read_message(in, response, events)) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "%zd bytes are not a watch response",
                             size);
            return false;
        }
    }
    return true;
}

static PyObject *
decode(PyObject *module, PyObject *args)
{
    PyObject *messages, *classes;
    Spans events = {NULL, 0, 0};
    const State *state = PyModule_GetState(module);
    if (!PyArg_ParseTuple(args, "O!O!:decode", &PyTuple_Type, &messages,
                          &PyTuple_Type, &classes) ||
        !check_classes(classes, state))
        return NULL;
    Response *response = (Response *)PyType_GenericAlloc(state->response, 0);
    if (response == NULL)
        return NULL;
    response->rising = true;
    response->cancel_reason = PyUnicode_FromString("");
    if (response->cancel_reason == NULL || !read_messages(messages, response, &events))
        PyMem_Free(events.items);
    else
        response->events = new_sequence(state, classes, messages, events);
    if (response->events == NULL)
        Py_CLEAR(response);
    return (PyObject *)response;
}

/* Decode a RangeResponse, and put its keys into the mapping if there is one; false,
 * with an exception, if that fails. */
static bool
read_reply(PyObject *message, RangeHead *head, PyObject *kvs, PyTypeObject *type)
{
    Span in = span_of(message);
    *head = (RangeHead){.last_key = {in.at, in.at}};
    if (read_range(in, head, kvs, type))
        return true;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "%zd bytes are not a range response",
                     PyBytes_Size(message));
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
        .create_revision = (uint64_t)create_revision,
        .mod_revision = (uint64_t)mod_revision,
        .version = (uint64_t)version,
        .lease = (uint64_t)lease,
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

/* --- The module --- */

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, "Decode messages; several are merged into one."},
    {"decode_range", decode_range, METH_O, "Decode a page of a range, but for its keys."},
    {"join", join, METH_O, "Return the events of several responses as one sequence."},
    {"make_event", make_event, METH_VARARGS, "Make an event of its fields."},
    {"make_key_value", make_key_value, METH_VARARGS, "Make a key of its fields."},
    {"put_again", put_again, METH_VARARGS, "Put what continues its key into a mapping."},
    {"put_range", put_range, METH_VARARGS, "Put the keys of a page into a mapping."},
    {"split_batches", split_batches, METH_O, "Split messages into batches."},
    {"take_messages", take_messages, METH_VARARGS, "Take frames of one message each."},
    {NULL, NULL, 0, NULL},
};

/* Make a class, and store it in the state and in the module. */
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
        add_class(module, &sequence_spec, &state->sequence) < 0 ||
        add_class(module, &iterator_spec, &state->iterator) < 0 ||
        /* _twins.py requires the same number, and rejects any other. */
        PyModule_AddIntConstant(module, "ABI", 7) < 0)
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
    Py_VISIT(state->sequence);
    Py_VISIT(state->iterator);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->kv);
    Py_CLEAR(state->event);
    Py_CLEAR(state->response);
    Py_CLEAR(state->sequence);
    Py_CLEAR(state->iterator);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, SLOT(module_exec)},
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
