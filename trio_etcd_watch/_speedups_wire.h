/* The wire format: https://protobuf.dev/programming-guides/encoding/. It knows no Python.
 *
 * Bytes come from the network, and none is trusted: everything is read through a Span,
 * whose `at` never passes its `end`. Nothing recurses, and no announced length makes
 * room for anything before so many bytes are seen to be there.
 */
#ifndef TRIO_ETCD_WATCH_WIRE_H
#define TRIO_ETCD_WATCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that are still to be read; at <= end. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Span;

enum { VARINT = 0, I64 = 1, LEN = 2, SGROUP = 3, EGROUP = 4, I32 = 5 };

/* A tag and what follows it: a number, or bytes. */
typedef struct {
    uint32_t tag;
    uint64_t number;
    Span bytes;
} Field;

#define TAG(field, wire_type) ((field) << 3 | (wire_type))

/* As upb has it: how deep messages and groups may lie in each other. */
#define MAX_DEPTH 100

/* Read a varint of at most `most` bytes; false if it is longer, or cut off. The tenth
 * byte has one bit to give, and the others are lost, as upb does it. */
static inline bool
read_varint(Span *in, int most, uint64_t *value)
{
    /* Tags, lengths and small numbers are one byte, and most varints are of these. */
    if (in->at < in->end && *in->at < 0x80) {
        *value = *in->at++;
        return true;
    }
    uint64_t result = 0;
    for (int i = 0; i < most && in->at < in->end; i++) {
        uint8_t byte = *in->at++;
        result |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            *value = result;
            return true;
        }
    }
    return false;
}

/* Read the bytes that a length announces; false if they are not there. */
static bool
read_bytes(Span *in, Span *bytes)
{
    uint64_t length;
    if (!read_varint(in, 5, &length) || length > (uint64_t)(in->end - in->at))
        return false;
    bytes->at = in->at;
    bytes->end = in->at += length;
    return true;
}

static bool
skip(Span *in, ptrdiff_t length)
{
    if (in->end - in->at < length)
        return false;
    in->at += length;
    return true;
}

/* Read a tag with what follows it; of a group that is nothing. Groups are not used by
 * etcd, and whoever reads on must skip them. */
static inline bool
read_field(Span *in, Field *field)
{
    uint64_t tag;
    if (!read_varint(in, 5, &tag) || tag > UINT32_MAX)
        return false;
    field->tag = (uint32_t)tag;
    switch (tag & 7) {
    case VARINT:
        return read_varint(in, 10, &field->number);
    case LEN:
        return read_bytes(in, &field->bytes);
    case I64:
        return skip(in, 8);
    case I32:
        return skip(in, 4);
    case SGROUP:
    case EGROUP:
        return true;
    default:
        return false;
    }
}

/* Skip a field that is none of ours, or not of its type: all is read already, unless it
 * begins a group. `depth` messages lie around it. There is no field 0, but upb does not
 * look for it inside of groups. */
static bool
skip_unknown(Span *in, const Field *unknown, int depth)
{
    uint32_t open[MAX_DEPTH];
    int count = 0;
    Field field = *unknown;
    if (field.tag >> 3 == 0)
        return false;
    for (;;) {
        if ((field.tag & 7) == SGROUP) {
            if (depth + count == MAX_DEPTH)
                return false;
            open[count++] = field.tag;
        }
        else if ((field.tag & 7) == EGROUP) {
            if (count == 0 || open[--count] >> 3 != field.tag >> 3)
                return false;
        }
        if (count == 0)
            return true;
        if (!read_field(in, &field))
            return false;
    }
}

#endif
