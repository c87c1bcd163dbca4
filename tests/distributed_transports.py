"""A weight transport of a user's own: a file that rank 0 writes and workers read."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from spiral.distributed.weights.base import IdleSender, WeightReceiver, WeightSender, WeightTransport


class FileTransport(WeightTransport):
    def __init__(self, context, folder):
        super().__init__(context)
        self.folder = Path(folder)

    def sender(self, rank):
        return FileSender(self.folder) if rank == 0 else IdleSender()

    def receiver(self):
        return FileReceiver()


class FileSender(WeightSender):
    def __init__(self, folder):
        self.folder = folder

    def send(self, version, weights):
        file = self.folder / f"{version}.safetensors"
        save_file({name: weight.contiguous() for name, weight in weights}, file)
        return file.stat().st_size, file


class FileReceiver(WeightReceiver):
    def receive(self, handle, load):
        import ray

        load(load_file(ray.get(handle.payload)).items(), handle.version)


class NoTransport:
    def __init__(self, context):
        pass


class Nothing:
    pass


class Half(WeightTransport):
    def sender(self, rank):
        raise NotImplementedError


class NoContext(FileTransport):
    def __init__(self):
        pass


class Fails(FileTransport):
    def __init__(self, context):
        raise OSError("no such server")


class Refuses(FileTransport):
    def __init__(self, context, port):
        raise ValueError(f"port {port} is in use")


class Faulty(FileTransport):
    """Does what `fault` says at every method."""

    def __init__(self, context, fault):
        super().__init__(context, ".")
        self.fault = fault

    def answer(self, *_):
        if isinstance(self.fault, BaseException):
            raise self.fault
        return self.fault

    sender = receiver = connect = deliver = answer


class FaultySender(WeightSender):
    def __init__(self, fault):
        self.fault = fault

    def send(self, version, weights):
        if isinstance(self.fault, BaseException):
            raise self.fault
        return self.fault
