/* Applies puts that continue their keys to a mapping: the twin of `put_again` in
 * _chain.py.
 */
#ifndef TRIO_ETCD_WATCH_CHAIN_H
#define TRIO_ETCD_WATCH_CHAIN_H

#include "_speedups_values.h"

#include <string.h>

/* Whether this put continues the version before its own, of the same creation. */
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

/* Replace the old value of the key with this one, if it continues that: 1 if so, 0 if
 * not, -1 with an exception. No reference is borrowed while a dict may run code of its
 * keys. The dict keeps the key object that it has. The new value gets the same object,
 * which is equal, so that it is held only once. */
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

#endif
