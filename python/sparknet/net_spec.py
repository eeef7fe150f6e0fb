"""Nets written in Python, as pycaffe's NetSpec has them.

    from sparknet import NetSpec, layers as L, params as P

    n = NetSpec()
    n.data, n.label = L.Data(source="train_lmdb", backend=P.Data.LMDB, batch_size=64, ntop=2)
    n.conv1 = L.Convolution(n.data, num_output=20, kernel_size=5, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.loss = L.SoftmaxWithLoss(n.relu1, n.label)
    print(n.to_proto())

A layer's type, its fields and the values of enums are checked where they are written.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from sparknet import _native
from sparknet._native import Message


class Top:
    """What a layer writes; the bottom of others."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Message:
        """A NetParameter with all layers that this top needs."""
        return to_proto(self)


class Function:
    """A layer that has no name yet."""

    def __init__(self, type_name: str, inputs: tuple[Top, ...], params: dict[str, Any]) -> None:
        for index, given in enumerate(inputs):
            if not isinstance(given, Top):
                hint = ": take one of its tops" if isinstance(given, (Function, tuple)) else ""
                raise TypeError(f"bottom {index} of {type_name} is no top but a {type(given).__name__}{hint}")
        self.type_name = type_name
        self.inputs = inputs
        self.ntop = params.pop("ntop", 1)
        self.in_place = params.pop("in_place", False)
        self.message = _native.layer(type_name, params)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class _Namer:
    """Gives layers and tops their names, and collects the layers in the order that they need."""

    def __init__(self, names: dict[Top | Function, str]) -> None:
        self.names = names
        self.counts: Counter[str] = Counter()
        self.layers: OrderedDict[Function, Message] = OrderedDict()
        self.written: dict[Function, list[str]] = {}

    def add(self, fn: Function) -> None:
        # A loop in place of recursion: nets may be deeper than Python's stack.
        waiting = [fn]
        while waiting:
            fn = waiting[-1]
            needed = [top.fn for top in fn.inputs if top.fn not in self.layers]
            if fn in self.layers:
                waiting.pop()
            elif needed:
                waiting.extend(reversed(needed))
            else:
                self._finish(fn)
                waiting.pop()

    def _finish(self, fn: Function) -> None:
        # Names that were written out, as bottom= and top=, come last.
        bottoms = [self.written[top.fn][top.n] for top in fn.inputs] + fn.message.bottom
        tops = (list(bottoms) if fn.in_place else [self._name(top, fn) for top in fn.tops]) + fn.message.top
        fields: dict[str, Any] = {"bottom": bottoms, "top": tops}
        if not fn.message.HasField("name"):
            fields["name"] = self._name(fn.tops[0] if fn.ntop else fn, fn)
        self.written[fn] = tops
        self.layers[fn] = fn.message.with_fields(**fields)

    def _name(self, item: Top | Function, fn: Function) -> str:
        if item not in self.names:
            self.counts[fn.type_name] += 1
            self.names[item] = f"{fn.type_name}{self.counts[fn.type_name]}"
        return self.names[item]


def to_proto(*tops: Top | Function) -> Message:
    """A NetParameter with all layers that ``tops`` need; those without a name are numbered."""
    return _to_proto({}, tops)


def _to_proto(names: dict[Top | Function, str], items: tuple[Top | Function, ...]) -> Message:
    namer = _Namer(names)
    for item in items:
        namer.add(item if isinstance(item, Function) else item.fn)
    return Message("NetParameter", layer=list(namer.layers.values()))


class NetSpec:
    """A net whose tops are attributes: ``n.conv1 = L.Convolution(n.data, …)`` names the layer and its top.

    ``n["name"]`` is for names that Python cannot have, or that NetSpec has itself.
    """

    tops: OrderedDict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Top | Function) -> None:
        if not isinstance(value, (Top, Function)):
            hint = ": give it as many names as it has tops" if isinstance(value, tuple) else ""
            raise TypeError(f"'{name}' of a NetSpec is a layer's top, not a {type(value).__name__}{hint}")
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self.tops[name]
        except KeyError:
            raise AttributeError(f"the NetSpec has no top '{name}' yet") from None

    def __delattr__(self, name: str) -> None:
        try:
            del self.tops[name]
        except KeyError:
            raise AttributeError(f"the NetSpec has no top '{name}' yet") from None

    __setitem__ = __setattr__

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.tops]

    def to_proto(self) -> Message:
        """The net as a NetParameter; ``str()`` of it is the prototxt."""
        return _to_proto({top: name for name, top in self.tops.items()}, tuple(self.tops.values()))


class Layers:
    """Every type of layer as a function: ``layers.Convolution(bottom, num_output=20, kernel_size=5)``.

    Keywords are fields of the layer's own parameters or of the layer itself; ``ntop`` says how many tops it has, and
    ``in_place`` that it writes over its bottom. It returns its top, a tuple of several, or itself if it has none.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def layer(*bottoms: Top, **fields: Any) -> Any:
            fn = Function(name, bottoms, fields)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        return layer


class _Enums:
    def __init__(self, layer_type: str) -> None:
        self._message = f"{layer_type}Parameter"

    def __getattr__(self, name: str) -> int:
        return _native.enum_value(self._message, name)


class Params:
    """The values of enums by type of layer: ``params.Pooling.MAX``."""

    def __getattr__(self, name: str) -> _Enums:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Enums(name)


layers = Layers()
params = Params()
