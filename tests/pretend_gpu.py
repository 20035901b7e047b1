"""A pretend GPU for a machine without one: `on()`, before the library is imported.

A tensor that was moved to 'cuda' computes on the CPU, and its storage carries a mark. What depends on the mark
is as on a card of the kind of a T4:

- `device`, `is_cuda` and `is_cpu` of a tensor, of its views, gradients and copies, and of what is computed from it;
- an operation on tensors of two devices raises RuntimeError; so do a CPU generator for random numbers on the GPU
  and an index that lies on the GPU for a tensor on the CPU; `.numpy()` of a tensor on the GPU raises TypeError;
- `torch.save` keeps where a tensor lies, `torch.load` brings it back or moves it by `map_location`;
- `torch.cuda` answers: one card of 15 GB that emulates bfloat16, memory that was asked for, streams, events;
- `torch.autocast('cuda')` is autocast of the CPU in the same precision, so that fp16 is computed in fp16.

It does not check kernels, rounding in fp16 as a GPU rounds, memory, speed, more than one card, code in another
process, Python that autograd calls in the backward pass, or mixed devices inside one function of
`torch.nn.functional`, of which it sees arguments and result.
"""

import contextlib
import threading
import time
from types import SimpleNamespace

import torch
import torch._dynamo  # (it lists the functions of torch when it is imported first: before they are replaced)
from torch.overrides import TorchFunctionMode

GPU, CPU = torch.device('cuda', 0), torch.device('cpu')
NAME, MEMORY = 'pretend GPU', 15 * 10**9
TENSOR = torch.Tensor

# Functions that take tensors of two devices on a real GPU, too
MIXING = set(
    'copy_ set_ to type_as view_as expand_as reshape_as sum_to_size is_same_size is_set_to result_type grad '
    '_foreach_copy_ _has_compatible_shallow_copy_type register_hook __repr__ __format__ __reduce_ex__ '
    '__getitem__ __setitem__ broadcast_tensors'.split()
)
FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray)
NUMPY = ('numpy', '__array__', '__array_wrap__')


def _storage(t):
    "The memory of a tensor; None where it has none of its own, as a sparse one."
    try:
        return t.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def on_gpu(t) -> bool:
    "Whether a tensor was moved to the pretend GPU."
    return getattr(_storage(t), 'on_gpu', False)


def _mark(t, gpu):
    storage = _storage(t)
    if storage is not None:
        storage.on_gpu = gpu


def _tensors(x, depth=0):
    "The tensors in nested lists and dicts."
    if isinstance(x, TENSOR):
        yield x
    elif depth < 4 and isinstance(x, (list, tuple)):
        for part in x:
            yield from _tensors(part, depth + 1)
    elif depth < 4 and isinstance(x, dict):
        yield from _tensors(list(x.values()), depth + 1)


def _is_gpu(device):
    "True or False for a device; None where there is none, or another one. A second card is an error."
    if device is None:
        return None
    device = GPU if isinstance(device, int) and not device else torch.device(device)
    if device.type == 'cuda' and device.index not in (None, 0):
        raise RuntimeError(f'CUDA error: invalid device ordinal ({device}: there is one pretend GPU)')
    return {'cuda': True, 'cpu': False}.get(device.type)


def _moved(t, gpu):
    "`t` itself where it lies there already, else a copy."
    if on_gpu(t) == gpu:
        return t
    copy = t.clone()
    _mark(copy, gpu)
    return copy


def _to(t, *args, **kwargs):
    "`Tensor.to` in its forms: a device, a dtype, both, or another tensor."
    gpu = on_gpu(t)
    other = kwargs.get('other', args[0] if args else None)
    if isinstance(other, TENSOR):
        gpu = on_gpu(other)
    elif 'device' in kwargs:
        target = _is_gpu(kwargs['device'])
        gpu = gpu if target is None else target
        kwargs['device'] = CPU if target is not None else kwargs['device']
    elif args and not isinstance(args[0], torch.dtype):
        target = _is_gpu(args[0])
        gpu = gpu if target is None else target
        args = (CPU if target is not None else args[0], *args[1:])
    done = t.to(*args, **kwargs)
    if done is not t and done.device.type == 'cpu':
        _mark(done, gpu)
        return done
    return _moved(done, gpu)


def _check_mixing(name, args, tensors):
    "RuntimeError as CUDA has it; a number in a CPU tensor without dimensions may go with a GPU tensor."
    marks = [on_gpu(t) for t in tensors]
    if name in ('__getitem__', '__setitem__'):
        index = list(_tensors(args[1:2]))
        if not marks[0] and any(map(on_gpu, index)):
            raise RuntimeError('indices should be either on cpu or on the same device as the indexed tensor (cpu)')
    if name in MIXING or not any(marks):
        return
    strict = name in ('stack', 'cat')
    if any(not gpu and (strict or t.dim()) for t, gpu in zip(tensors, marks)):
        raise RuntimeError(
            'Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! '
            f'(in {name})'
        )


class PretendGPU(TorchFunctionMode):
    "Every function of torch passes here: the CPU computes, and the result is marked by where it would lie."

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, '__name__', '')
        if name == '__get__':
            return self.attribute(func, args[0])
        if name in ('__set__', '_parse_to'):
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            tensors = [*_tensors(args), *_tensors(kwargs)]
            first_on_gpu = bool(tensors) and on_gpu(tensors[0])
            if name in NUMPY and first_on_gpu and not kwargs.get('force'):
                raise TypeError(
                    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                    'memory first.'
                )
            _check_mixing(name, args, tensors)
        if name in NUMPY and first_on_gpu:
            return func(*args, **kwargs)
        if name in ('to', 'cuda', 'cpu', 'type_as') and isinstance(args[0], TENSOR):
            return self.move(name, *args, **kwargs)
        if name == 'get_device':
            return 0 if first_on_gpu else -1
        return self.compute(func, name, args, kwargs, tensors)

    def attribute(self, func, t):
        what = func.__self__.__name__
        with torch._C.DisableTorchFunctionSubclass():
            if what in ('device', 'is_cuda', 'is_cpu') and on_gpu(t):
                return dict(device=GPU, is_cuda=True, is_cpu=False)[what]
            value = func(t)
            if what == 'grad' and value is not None:  # autograd has made it, which sees no marks
                _mark(value, on_gpu(t))
        return func(t) if isinstance(value, TENSOR) else value

    def move(self, name, t, *args, **kwargs):
        if name == 'to':
            return _to(t, *args, **kwargs)
        if name == 'type_as':
            return _to(t, device=CPU if not on_gpu(args[0]) else GPU, dtype=args[0].dtype)
        if name == 'cuda' and args:
            _is_gpu(args[0])
        return _moved(t, name == 'cuda')

    def compute(self, func, name, args, kwargs, tensors):
        target = _is_gpu(kwargs['device']) if 'device' in kwargs else None
        if target is not None:
            kwargs['device'] = CPU
        with torch._C.DisableTorchFunctionSubclass():
            if target is not None:
                gpu = target
            elif func in FROM_DATA:  # a list of tensors becomes a tensor on the CPU
                gpu = isinstance(args[0], TENSOR) and on_gpu(args[0])
            else:
                gpu = any(map(on_gpu, tensors))
            self.check_generator(args, kwargs, gpu, name)
            given = {s._cdata for t in tensors if (s := _storage(t)) is not None}
        result = func(*args, **kwargs)
        if not (gpu or target is not None):
            return result
        with torch._C.DisableTorchFunctionSubclass():
            made = list(_tensors(result))
            for t in made:
                storage = _storage(t)
                if storage is not None and storage._cdata not in given:
                    storage.on_gpu = gpu
        if target is not None and isinstance(result, TENSOR):
            return _moved(result, target)
        return result

    def check_generator(self, args, kwargs, gpu, name):
        for g in (*args, *kwargs.values()):
            if isinstance(g, torch._C.Generator) and (g.device.type == 'cuda') != gpu:
                wanted, found = ('cuda', 'cpu') if gpu else ('cpu', 'cuda')
                raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}' (in {name})")


class _AnyGenerator(type(torch._C.Generator)):
    def __instancecheck__(cls, g):
        return isinstance(g, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_AnyGenerator):
    "A generator of random numbers that says for which device it is."

    def __new__(cls, device='cpu'):
        new = super().__new__(cls, CPU)
        new.where = GPU if _is_gpu(device) else CPU
        return new

    def __init__(self, device='cpu'):
        pass

    @property
    def device(self):
        return self.where


class Autocast(torch.autocast):
    "Autocast of the GPU by that of the CPU."

    def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        if device_type == 'cuda':
            device_type, dtype = 'cpu', dtype or torch.float16
        super().__init__(device_type, dtype, enabled, cache_enabled)


class Stream(contextlib.nullcontext):
    "A queue of work that is always done."

    def __init__(self, *args, **kwargs):
        super().__init__(self)

    def wait_stream(self, other): ...
    def wait_event(self, event): ...
    def synchronize(self): ...
    def query(self):
        return True

    def is_capturing(self):
        return False


class Event:
    "A moment."

    def __init__(self, *args, **kwargs): ...
    def wait(self, stream=None): ...
    def synchronize(self): ...
    def query(self):
        return True

    def record(self, stream=None):
        self.at = time.perf_counter()

    def elapsed_time(self, other):
        return 1000 * (other.at - self.at)


def _nothing(*args, **kwargs): ...


def _zero(*args, **kwargs):
    return 0


def _card(*args, **kwargs):
    return SimpleNamespace(name=NAME, total_memory=MEMORY, major=7, minor=5, multi_processor_count=40)


CUDA = dict(
    is_available=lambda: True,
    is_initialized=lambda: True,
    init=_nothing,
    _lazy_init=_nothing,
    device_count=lambda: 1,
    current_device=_zero,
    set_device=_nothing,
    device=lambda *args: contextlib.nullcontext(),
    get_device_name=lambda *args, **kwargs: NAME,
    get_device_capability=lambda *args, **kwargs: (7, 5),
    get_device_properties=_card,
    is_bf16_supported=lambda including_emulation=True: including_emulation,
    synchronize=_nothing,
    empty_cache=_nothing,
    ipc_collect=_nothing,
    mem_get_info=lambda *args: (MEMORY, MEMORY),
    memory_stats=lambda *args: {},
    memory_allocated=_zero,
    memory_reserved=_zero,
    max_memory_allocated=_zero,
    max_memory_reserved=_zero,
    reset_peak_memory_stats=_nothing,
    manual_seed=_nothing,
    manual_seed_all=_nothing,
    seed_all=_nothing,
    get_rng_state=lambda *args: torch.zeros(16, dtype=torch.uint8),
    get_rng_state_all=lambda: [torch.zeros(16, dtype=torch.uint8)],
    set_rng_state=_nothing,
    set_rng_state_all=_nothing,
    is_current_stream_capturing=lambda: False,
    Stream=Stream,
    Event=Event,
    stream=lambda stream: contextlib.nullcontext(),
    current_stream=lambda *args: Stream(),
    default_stream=lambda *args: Stream(),
)


def _in_threads():
    "Threads that start from now on see the pretend GPU, too."
    run = threading.Thread.run

    def run_with_gpu(self):
        with PretendGPU():
            run(self)

    threading.Thread.run = run_with_gpu


def _location(storage):
    return 'cuda:0' if getattr(storage, 'on_gpu', False) else None


def _restore(storage, location):
    if not location.startswith('cuda'):
        return None
    storage.on_gpu = True
    return storage


def on():
    "Pretend from now on, until the process ends."
    if any(isinstance(mode, PretendGPU) for mode in torch.overrides._get_current_function_mode_stack()):
        return
    for name, answer in CUDA.items():
        setattr(torch.cuda, name, answer)
    if hasattr(torch, 'accelerator'):  # PyTorch 2.6 and later
        torch.accelerator.current_stream = lambda *args: Stream()
    torch.Generator = Generator
    for place in (torch, torch.amp, torch.amp.autocast_mode):
        place.autocast = Autocast
    torch.Tensor.pin_memory = lambda self, device=None: self
    torch.serialization.register_package(5, _location, _restore)  # before that of the CPU, which is 10
    _in_threads()
    PretendGPU().__enter__()
