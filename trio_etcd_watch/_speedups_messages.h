/* Decodes the parts of a message: a key, an event, a header. If a field comes twice,
 * the last one wins; if that is a message, both are merged.
 */
#ifndef TRIO_ETCD_WATCH_MESSAGES_H
#define TRIO_ETCD_WATCH_MESSAGES_H

#include "_speedups_values.h"
#include "_speedups_wire.h"

/* The decoded fields of a KeyValue; the spans point into the message. */
typedef struct {
    Span key;
    Span value;
    uint64_t create_revision;
    uint64_t mod_revision;
    uint64_t version;
    uint64_t lease;
} KeyValueBytes;

typedef struct {
    KeyValueBytes kv;
    KeyValueBytes prev_kv;
    bool has_prev_kv;
    int32_t type;
} EventBytes;

/* A key without any field. Its spans are not NULL, since arithmetic on null pointers is
 * undefined. */
static KeyValueBytes
no_key_value(void)
{
    static const uint8_t nothing[1];
    return (KeyValueBytes){.key = {nothing, nothing}, .value = {nothing, nothing}};
}

static EventBytes
no_event(void)
{
    return (EventBytes){.kv = no_key_value(), .prev_kv = no_key_value()};
}

/* Read the fields that are there in the order of their numbers, as etcd writes them;
 * stop at any other. This takes half the time of a loop over fields in any order. */
static inline bool
read_in_order(Span *in, KeyValueBytes *kv)
{
    return read_bytes_if(in, TAG(1, LEN), &kv->key) &&
           read_varint_if(in, TAG(2, VARINT), &kv->create_revision) &&
           read_varint_if(in, TAG(3, VARINT), &kv->mod_revision) &&
           read_varint_if(in, TAG(4, VARINT), &kv->version) &&
           read_bytes_if(in, TAG(5, LEN), &kv->value) &&
           read_varint_if(in, TAG(6, VARINT), &kv->lease);
}

/* The key is nested in `depth` messages. */
static bool
read_key_value(Span in, KeyValueBytes *kv, int depth)
{
    Field field;
    if (!read_in_order(&in, kv))
        return false;
    while (in.at < in.end) {
        if (!read_field(&in, &field))
            return false;
        switch (field.tag) {
        case TAG(1, LEN):
            kv->key = field.bytes;
            break;
        case TAG(2, VARINT):
            kv->create_revision = field.number;
            break;
        case TAG(3, VARINT):
            kv->mod_revision = field.number;
            break;
        case TAG(4, VARINT):
            kv->version = field.number;
            break;
        case TAG(5, LEN):
            kv->value = field.bytes;
            break;
        case TAG(6, VARINT):
            kv->lease = field.number;
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

#endif
