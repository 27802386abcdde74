/* Reads the wire format of protobuf, without Python's API:
 * https://protobuf.dev/programming-guides/encoding/
 *
 * The bytes come from the network and are not trusted: everything is read through a
 * Span, whose `at` never passes its `end`. Nothing recurses, and no memory is allocated
 * for an announced length before that many bytes are known to be there.
 */
#ifndef TRIO_ETCD_WATCH_WIRE_H
#define TRIO_ETCD_WATCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The bytes that are still to be read; at <= end. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Span;

enum { VARINT = 0, I64 = 1, LEN = 2, SGROUP = 3, EGROUP = 4, I32 = 5 };

/* A field: its tag, and the number or the bytes that follow it. */
typedef struct {
    uint32_t tag;
    uint64_t number;
    Span bytes;
} Field;

#define TAG(field, wire_type) ((field) << 3 | (wire_type))

/* How deep messages and groups may be nested; the same as in upb. */
#define MAX_DEPTH 100

/* Read a varint of at most `most` bytes; false if it is longer, or cut off. Of the
 * tenth byte one bit is used, and the others are dropped, as upb does. */
static inline bool
read_varint(Span *in, int most, uint64_t *value)
{
    /* Most varints are tags, lengths and small numbers, which take one byte. */
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

/* Read a length and that many bytes; false if they are not there. */
static inline bool
read_bytes(Span *in, Span *bytes)
{
    uint64_t length;
    if (!read_varint(in, 5, &length) || length > (uint64_t)(in->end - in->at))
        return false;
    bytes->at = in->at;
    bytes->end = in->at += length;
    return true;
}

/* Read the number or the bytes of a field if that has this tag, of one byte, and comes
 * next; false if it comes next but cannot be read. */
static inline bool
read_varint_if(Span *in, uint8_t tag, uint64_t *value)
{
    if (in->at == in->end || *in->at != tag)
        return true;
    in->at++;
    return read_varint(in, 10, value);
}

static inline bool
read_bytes_if(Span *in, uint8_t tag, Span *bytes)
{
    if (in->at == in->end || *in->at != tag)
        return true;
    in->at++;
    return read_bytes(in, bytes);
}

static bool
skip(Span *in, ptrdiff_t length)
{
    if (in->end - in->at < length)
        return false;
    in->at += length;
    return true;
}

/* Read a tag and the number or bytes that follow it; in a group, only the tag. etcd
 * does not use groups, so the caller must skip them. */
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

/* Skip a field that is not declared, or has another type. It is already read, unless it
 * begins a group. The field is nested in `depth` messages. Field 0 is an error, except
 * inside groups, where upb does not check for it. */
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
