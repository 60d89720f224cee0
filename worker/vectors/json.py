"""Format `json`. Most records of a topic are written by one program: their keys come in one order. Such records, and
plain arrays, are read by a compiled loop that knows the order from one of them and compares each key byte for byte.
Whatever is unusual about a record leaves it to worker/vectors/json_any.py, which has the say on what is right: escapes,
other scripts, another order, nesting, a number that is hard to round, an error.
"""

# mypy: disable-error-code="no-untyped-def,assignment"
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from worker.compiled import compiled, read_only
from worker.vectors.block import BytesColumn, Int64s
from worker.vectors.formats import Parsed
from worker.vectors.json_any import AnyJson

_LEARN_AGAIN: Final = 0.25  # share of records in another order

# What to do with the value of a key; what is not negative is a column.
_VALUES, _SKIP, _TIME, _ENTITY, _REFUSED = -1, -2, -3, -4, -5

_POWERS: Final = np.array([float(f"1e{k}") for k in range(309)])
_EXACT_POWER, _EXACT_DIGITS, _MOST_DIGITS = 22, 2**53, 19
_LEAST, _MOST = 1.2e-38, 3.4e38  # float32 is exact to the last of its bits in between
_TRUE, _FALSE = np.frombuffer(b"true", np.uint8), np.frombuffer(b"false", np.uint8)
_NO_TIME: Final = np.iinfo(np.int64).min


class _Layout(NamedTuple):
    """The keys of an object in their order, quoted, end to end in `text`; and the role of each."""

    text: npt.NDArray[np.uint8]
    ends: Int64s
    roles: Int64s
    whole: bool  # every feature is there


class Json:
    def __init__(self, features: Sequence[str], entity_field: str | None, time_field: str | None, strict: bool):
        self._any = AnyJson(features, entity_field, time_field, strict)
        self._features = tuple(features)
        self._columns = {name: j for j, name in enumerate(self._features)}
        self._entity_field, self._time_field, self._strict = entity_field, time_field, strict
        self._layout = self._layout_of(())

    def decode(self, values: BytesColumn, records: Int64s) -> list[Parsed]:
        parsed, refused = self._fast(values, records)
        if len(refused) > _LEARN_AGAIN * len(records) and self._learn(values, refused):
            parsed, refused = self._fast(values, records)
        return [parsed] if not len(refused) else [parsed, *self._any.decode(values, refused)]

    def _fast(self, values: BytesColumn, records: Int64s) -> tuple[Parsed, Int64s]:
        """What the compiled loop takes; and the records that it refuses."""
        n, layout = len(records), self._layout
        x = np.empty((n, len(self._features)), np.float32)
        if not layout.whole:
            x[:] = np.nan
        times = np.full(n, _NO_TIME)
        names = np.zeros((n, 2), np.int64)
        good = _parse(
            read_only(np.frombuffer(values.buffer, np.uint8)),
            values.start[records],
            values.length[records],
            layout.text,
            layout.ends,
            layout.roles,
            x,
            times,
            names,
        )
        taken, refused = records[good], records[~good]
        if len(refused):
            x, times, names = x[good], times[good], names[good]
        entities: dict[int, str] = {}
        if self._entity_field is not None:
            there = names[:, 0] > 0
            told = names[there].tolist()
            entities = {
                r: str(values.buffer[begin:end], "ascii")
                for r, (begin, end) in zip(taken[there].tolist(), told, strict=True)
            }
        timed = times != _NO_TIME
        event_times = dict(zip(taken[timed].tolist(), times[timed].tolist(), strict=True))
        return Parsed(taken, np.ones(len(taken), np.int64), x, (), entities, event_times), refused

    def _learn(self, values: BytesColumn, refused: Int64s) -> bool:
        """Takes the order of the keys from one of these. False where that is nothing new."""
        try:
            doc: Any = orjson.loads(values.view(int(refused[0])))
        except orjson.JSONDecodeError:
            return False
        if type(doc) is not dict:
            return False
        layout, before = self._layout_of(tuple(doc)), self._layout
        self._layout = layout
        return not (np.array_equal(layout.text, before.text) and np.array_equal(layout.ends, before.ends))

    def _layout_of(self, keys: Sequence[str]) -> _Layout:
        if "values" in keys and "values" not in self._columns:
            roles = [_VALUES if key == "values" else self._role(key, {}) for key in keys]
            whole = True
        else:
            roles = [self._role(key, self._columns) for key in keys]
            whole = set(self._features) <= set(keys) or not keys
        if self._strict and _SKIP in roles:
            return self._layout_of(())
        quoted = [orjson.dumps(key) for key in keys]
        return _Layout(
            read_only(np.frombuffer(b"".join(quoted), np.uint8)),
            np.cumsum([len(key) for key in quoted]),
            np.array(roles, np.int64),
            whole,
        )

    def _role(self, key: str, columns: dict[str, int]) -> int:
        roles = [columns[key]] if key in columns else []
        roles += [_TIME] if key == self._time_field else []
        roles += [_ENTITY] if key == self._entity_field else []
        return _REFUSED if len(roles) > 1 else roles[0] if roles else _SKIP


@compiled
def _parse(buffer, start, length, text, ends, roles, x, times, names):
    """Fills a row of x, times and names for each record that it takes. -> [n] whether it did.

    One function with one place that reads a number: to hand an array to another costs as much as to read ten of them.
    """
    n, width = x.shape
    taken = np.zeros(n, np.bool_)
    one = np.uint64(1)
    for i in range(n):
        at = np.uint64(start[i])
        end = at + np.uint64(length[i])
        while at < end and buffer[at] <= 32:
            if buffer[at] != 32 and buffer[at] != 10 and buffer[at] != 13 and buffer[at] != 9:
                break
            at += one
        if at >= end:
            continue
        is_object = buffer[at] == 123  # {
        if not is_object:
            if buffer[at] != 91:  # [
                continue
            at += one
        elif len(roles) == 0:
            continue
        in_array, element, key = not is_object, 0, 0
        while True:
            # what stands before the next value
            role = np.int64(element)
            if in_array:
                if element > 0:
                    if at >= end or buffer[at] != 44:  # ,
                        break
                    at += one
                element += 1
            else:
                if at >= end or buffer[at] != (44 if key > 0 else 123):
                    break
                at += one
                while at < end and buffer[at] <= 32:
                    if buffer[at] != 32 and buffer[at] != 10 and buffer[at] != 13 and buffer[at] != 9:
                        break
                    at += one
                first = np.uint64(ends[key - 1]) if key > 0 else np.uint64(0)
                size = np.uint64(ends[key]) - first
                if end - at < size:
                    break
                same = True
                for k in range(size):
                    same &= buffer[at + k] == text[first + k]
                if not same:
                    break
                at += size
                while at < end and buffer[at] <= 32:
                    if buffer[at] != 32 and buffer[at] != 10 and buffer[at] != 13 and buffer[at] != 9:
                        break
                    at += one
                if at >= end or buffer[at] != 58:  # :
                    break
                at += one
                role = roles[key]
                key += 1
            while at < end and buffer[at] <= 32:
                if buffer[at] != 32 and buffer[at] != 10 and buffer[at] != 13 and buffer[at] != 9:
                    break
                at += one
            if role == _VALUES:
                if at >= end or buffer[at] != 91:
                    break
                at += one
                in_array, element = True, 1
                role = np.int64(0)
                while at < end and buffer[at] <= 32:
                    if buffer[at] != 32 and buffer[at] != 10 and buffer[at] != 13 and buffer[at] != 9:
                        break
                    at += one
            if at >= end or role == _REFUSED:
                break

            # the value
            byte = buffer[at]
            if byte == 34:  # a string
                if role != _SKIP and role != _ENTITY:
                    break
                at += one
                begin = at
                while at < end and 32 <= buffer[at] < 128 and buffer[at] != 34 and buffer[at] != 92:
                    at += one
                if at >= end or buffer[at] != 34:
                    break
                if role == _ENTITY:
                    names[i, 0], names[i, 1] = begin, at
                at += one
            elif byte == 110:  # null
                if (
                    end - at < 4
                    or buffer[at + one] != 117
                    or buffer[at + 2 * one] != 108
                    or buffer[at + 3 * one] != 108
                ):
                    break
                if role >= 0:
                    x[i, role] = np.nan
                at += np.uint64(4)
            elif byte == 116 or byte == 102:  # true, false
                literal = _TRUE if byte == 116 else _FALSE
                size = np.uint64(len(literal))
                if role != _SKIP or end - at < size:
                    break
                same = True
                for k in range(size):
                    same &= buffer[at + k] == literal[k]
                if not same:
                    break
                at += size
            else:
                negative = byte == 45
                if negative:
                    at += one
                if at >= end or role == _ENTITY:
                    break
                digit = np.uint64(buffer[at]) - np.uint64(48)
                if digit > 9:
                    break
                mantissa, digits, exponent = digit, np.int64(digit > 0), np.int64(0)
                at += one
                leading_zero = digit == 0
                while at < end:
                    digit = np.uint64(buffer[at]) - np.uint64(48)
                    if digit > 9:
                        break
                    mantissa = mantissa * np.uint64(10) + digit
                    digits += digits > 0 or digit > 0
                    at += one
                    if leading_zero:
                        digits = 99  # 01 is no number
                whole = True
                if at < end and buffer[at] == 46:  # .
                    whole = False
                    at += one
                    point = at
                    while at < end:
                        digit = np.uint64(buffer[at]) - np.uint64(48)
                        if digit > 9:
                            break
                        mantissa = mantissa * np.uint64(10) + digit
                        digits += digits > 0 or digit > 0
                        at += one
                    exponent = -np.int64(at - point)
                    if at == point:
                        break
                if at < end and (buffer[at] == 101 or buffer[at] == 69):  # e, E
                    whole = False
                    at += one
                    minus = at < end and buffer[at] == 45
                    if at < end and (buffer[at] == 43 or buffer[at] == 45):
                        at += one
                    point, power = at, np.int64(0)
                    while at < end:
                        digit = np.uint64(buffer[at]) - np.uint64(48)
                        if digit > 9 or power > 9999:
                            break
                        power = power * 10 + np.int64(digit)
                        at += one
                    if at == point:
                        break
                    exponent += -power if minus else power
                if digits > _MOST_DIGITS or abs(exponent) > 300 or (negative and mantissa == 0):
                    break
                value = np.float64(mantissa)
                if exponent < 0:
                    value /= _POWERS[-exponent]
                else:
                    value *= _POWERS[exponent]
                exact = mantissa <= _EXACT_DIGITS and abs(exponent) <= _EXACT_POWER
                if negative:
                    value = -value
                if role >= 0:
                    if mantissa > 0 and (abs(value) < _LEAST or abs(value) > _MOST):
                        break
                    # Not every digit counts in float32: but where it is in doubt which way to round, they do.
                    if not exact and np.float32(value * (1 - 1e-15)) != np.float32(value * (1 + 1e-15)):
                        break
                    x[i, role] = value
                elif role == _TIME:
                    if not exact or negative or value >= 1e14:
                        break
                    if whole:
                        times[i] = np.int64(mantissa) * (1000 if mantissa < 100_000_000_000 else 1)
                    else:
                        times[i] = np.int64(value * 1000) if value < 1e11 else np.int64(value)

            # what stands after it
            while at < end and buffer[at] <= 32:
                if buffer[at] != 32 and buffer[at] != 10 and buffer[at] != 13 and buffer[at] != 9:
                    break
                at += one
            if in_array and element == width:
                if at >= end or buffer[at] != 93:  # ]
                    break
                at += one
                in_array = False
                while at < end and buffer[at] <= 32:
                    if buffer[at] != 32 and buffer[at] != 10 and buffer[at] != 13 and buffer[at] != 9:
                        break
                    at += one
                if not is_object:
                    taken[i] = at == end
                    break
            if not in_array and key == len(roles):
                if at >= end or buffer[at] != 125:  # }
                    break
                at += one
                while at < end and buffer[at] <= 32:
                    if buffer[at] != 32 and buffer[at] != 10 and buffer[at] != 13 and buffer[at] != 9:
                        break
                    at += one
                taken[i] = at == end
                break
    return taken
