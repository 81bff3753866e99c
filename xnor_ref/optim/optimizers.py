"""SGD and Adam. They update `param.data` in place, with the same bits at any number of threads."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnor_ref.autodiff import Tensor
from xnor_ref.errors import InputError, InputTypeError, ModelFileError
from xnor_ref.kernels.basics.rungs import without_kernels
from xnor_ref.kernels.basics.threads import check_threads, parallel_chunks
from xnor_ref.optim import _reference
from xnor_ref.optim._checks import number
from xnor_ref.steady import steady

CHUNK = 1 << 16  # elements per piece: a piece fits a core's cache and is one task of a thread
BACKENDS = ("auto", "reference", "numba")
Params = Iterable[Tensor | tuple[str, Tensor]]


class Optimizer:
    """Base of all optimisers: parameters, learning rate, weight decay, state.

    Parameters
    ----------
    params : iterable of Parameter, or of (name, Parameter)
        float32 Tensors that require gradients. The state uses these names; the default is "0", "1", ...
    lr : learning rate, above 0. The attribute `lr` may be set before each step, even to 0. If a parameter has the
        attribute `lr_scale`, its learning rate is multiplied by it.
    weight_decay : strength of weight decay. It applies to parameters whose attribute `decay` is True or missing. With
        the attribute `decay_steps`, it applies only in that many steps.
    backend : {"auto", "reference", "numba"}
        Two implementations with the same bits. "auto" is Numba, or NumPy if Numba's compiler is disabled.
    threads : number of threads; by default the process-wide number

    Raises
    ------
    InputError, InputTypeError
        No parameters, one given twice, an array that cannot be updated in place, a number out of range.
    """

    slots: tuple[str, ...] = ()  # names of the state arrays of each parameter
    decay_steps: int | None = None

    def __init__(
        self, params: Params, lr: float, *, weight_decay: float = 0.0, backend: str = "auto", threads: int | None = None
    ):
        caller = type(self).__name__
        self.params = _named_parameters(caller, params)
        self.lr = number(caller, "lr", lr, 0, above=True)
        self.weight_decay = number(caller, "weight_decay", weight_decay, 0)
        if backend not in BACKENDS:
            raise InputError(f"{caller}: backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
        self.backend = backend
        self.threads = None if threads is None else check_threads(threads, caller)
        self.steps = 0
        self._state = {
            name: [np.zeros(param.size, np.float32) for _ in self.slots] for name, param in self.params.items()
        }

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = number(type(self).__name__, "lr", value, 0)

    @steady
    def step(self) -> None:
        """Update every parameter that has a gradient. Other parameters and their state do not change.

        Raises InputError if the shape or dtype of a gradient differs from its parameter's. Nothing is then updated.
        """
        todo = []
        for name, param in self.params.items():
            if param.grad is None:
                continue
            if param.grad.shape != param.shape or param.grad.dtype != np.float32:
                raise InputError(
                    f"{type(self).__name__}.step: parameter {name!r} is float32 {param.shape}, but "
                    f"its gradient is {param.grad.dtype} {param.grad.shape}"
                )
            _require_in_place(type(self).__name__, name, param)
            todo.append((name, param, np.ascontiguousarray(param.grad).reshape(-1)))
        rung = self._rung()
        self.steps += 1
        decaying = self.decay_steps is None or self.steps <= self.decay_steps
        for name, param, grad in todo:
            decay = self.weight_decay if decaying and getattr(param, "decay", True) else 0.0
            lr = self.lr * getattr(param, "lr_scale", 1.0)
            self._update(rung, (param.data.reshape(-1), grad, *self._state[name]), lr, decay)

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for param in self.params.values():
            param.grad = None

    def state_dict(self) -> dict[str, NDArray]:
        """Return what a bit-exact resume needs besides the parameters and `lr`. The arrays are not copies.

        Keys are "<name>.<slot>", in the parameter's shape, and "step", the number of steps taken (int64).
        """
        state = {
            f"{name}.{slot}": array.reshape(self.params[name].shape)
            for name, arrays in self._state.items()
            for slot, array in zip(self.slots, arrays)
        }
        return state | {"step": np.array(self.steps, np.int64)}

    def load_state_dict(self, state: dict[str, NDArray]) -> None:
        """Load a state returned by `state_dict`.

        Raises ModelFileError if names, shapes or dtypes differ from this optimiser's. Nothing is then changed.
        """
        own, caller = self.state_dict(), f"{type(self).__name__}.load_state_dict"
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ModelFileError(f"{caller}: missing {missing[:5]}, unknown {unknown[:5]}")
        for name, array in own.items():
            new = state[name]
            if new.shape != array.shape or new.dtype != array.dtype:
                raise ModelFileError(
                    f"{caller}: {name} is {new.dtype} {new.shape}, but must be {array.dtype} {array.shape}"
                )
        if state["step"] < 0:
            raise ModelFileError(f"{caller}: step is {state['step']}, but must be 0 or more")
        self.steps = int(state["step"])
        for name, array in own.items():
            array[...] = state[name]

    def _rung(self) -> Any:
        if self.backend == "reference" or (self.backend == "auto" and without_kernels()):
            return _reference
        from xnor_ref.optim import _kernels

        return _kernels

    def _update(self, rung: Any, arrays: tuple[NDArray[np.float32], ...], lr: float, decay: float) -> None:
        """Update one parameter, given its flat data, gradient and slots."""
        raise NotImplementedError

    def _in_chunks(self, kernel: Any, arrays: tuple[NDArray[np.float32], ...], *numbers: Any) -> None:
        """Run kernel(*arrays, *numbers) piece by piece."""

        def chunk(start: int, stop: int) -> None:
            kernel(*(array[start:stop] for array in arrays), *numbers)

        size = arrays[0].size
        if size <= CHUNK:
            chunk(0, size)  # most parameters are small and do not need the thread pool
        else:
            parallel_chunks(chunk, size, CHUNK, self.threads)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013).

    g = grad + weight_decay param;  v = momentum v + g;  param -= lr v,  or with nesterov  param -= lr (g + momentum v).

    `momentum` is in [0, 1). With 0 there is no state, and `nesterov` is not allowed. See Optimizer for the rest. Weight
    decay is L2: it is added to the gradient.
    """

    def __init__(
        self,
        params: Params,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        **how: Any,
    ):
        self.momentum = number("SGD", "momentum", momentum, 0, 1)
        self.nesterov = nesterov
        if nesterov and momentum == 0:
            raise InputError("SGD: nesterov needs a momentum above 0, got momentum 0")
        self.slots = ("velocity",) if momentum else ()
        super().__init__(params, lr, weight_decay=weight_decay, **how)

    def _update(self, rung: Any, arrays: tuple[NDArray[np.float32], ...], lr: float, decay: float) -> None:
        step, strength = np.float32(lr), np.float32(decay)
        if self.momentum:
            self._in_chunks(rung.momentum_sgd, arrays, step, np.float32(self.momentum), strength, self.nesterov)
        else:
            self._in_chunks(rung.sgd, arrays, step, strength)


class Moments(Optimizer):
    """Base of optimisers with running moments of the gradient. The arguments are those of `Adam`."""

    default_eps: float

    def __init__(
        self,
        params: Params,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        **how: Any,
    ):
        caller = type(self).__name__
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise InputTypeError(f"{caller}: betas must be a pair of numbers, got {betas!r}")
        self.betas = tuple(number(caller, f"betas[{i}]", beta, 0, 1) for i, beta in enumerate(betas))
        smallest = float(np.finfo(np.float32).tiny)  # a smaller eps could round to 0
        self.eps = number(caller, "eps", self.default_eps if eps is None else eps, smallest)
        super().__init__(params, lr, weight_decay=weight_decay, **how)


class Adam(Moments):
    """Adam (Kingma and Ba 2015, algorithm 1), with L2 or decoupled weight decay (Loshchilov and Hutter 2019).

    m = beta1 m + (1 - beta1) g;  s = beta2 s + (1 - beta2) g^2;
    param -= lr m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps), where t is the number of steps of the optimiser.

    Parameters
    ----------
    params, lr, weight_decay, backend, threads
        See Optimizer.
    betas : each in [0, 1); by default 0.9 and 0.999
    eps : at least 1.2e-38, the smallest normal float32; by default 1e-8
    decoupled : if False, g = grad + weight_decay param; if True (AdamW), param *= 1 - lr weight_decay and g = grad.
    """

    slots = ("mean", "square")
    default_eps = 1e-8

    def __init__(
        self,
        params: Params,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        decoupled: bool = False,
        **how: Any,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, **how)
        self.decoupled = decoupled

    def _update(self, rung: Any, arrays: tuple[NDArray[np.float32], ...], lr: float, decay: float) -> None:
        beta1, beta2 = self.betas
        numbers = (
            *(beta1, 1 - beta1, beta2, 1 - beta2),
            lr / (1 - beta1**self.steps),
            1 / (1 - beta2**self.steps) ** 0.5,
            self.eps,
            0.0 if self.decoupled else decay,
            1 - lr * decay if self.decoupled else 1.0,
        )
        self._in_chunks(rung.adam, arrays, *(np.float32(value) for value in numbers))


def _named_parameters(caller: str, params: Params) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for index, item in enumerate(params):
        name, param = item if isinstance(item, tuple) and len(item) == 2 else (str(index), item)
        if not isinstance(name, str) or not isinstance(param, Tensor):
            raise InputTypeError(
                f"{caller}: params must be Parameters or (name, Parameter) pairs, got {type(item).__name__} at {index}"
            )
        if name in named or any(param is other for other in named.values()):
            raise InputError(f"{caller}: parameter {name!r} is given twice")
        _require_in_place(caller, name, param)
        named[name] = param
    if not named:
        raise InputError(f"{caller}: params holds no parameters")
    return named


def _require_in_place(caller: str, name: str, param: Tensor) -> None:
    data = param.data
    if data.dtype != np.float32:
        raise InputTypeError(f"{caller}: parameter {name!r} must be float32, got {data.dtype}")
    if not (data.flags.c_contiguous and data.flags.writeable and param.requires_grad and param.record is None):
        raise InputError(
            f"{caller}: parameter {name!r} must be a writeable, C-contiguous leaf that requires a gradient"
        )
