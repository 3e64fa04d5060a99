"A GPU that copies as late as it may: not before somebody waits for the event behind a copy"

from contextlib import contextmanager

import torch


class LateCopies:
    "Stands for the streams of CUDA and for what goes to 'cuda'; the numbers stay on the CPU"

    def __init__(self, monkeypatch):
        self.sent = []  # (pinned images, their place on the GPU), in order
        self.ahead = []  # for each that was waited for: how many were under way
        self.kept, self.waited_for, self.pinned, self.inside = 0, 0, [], False
        self.empty, self.to = torch.empty, torch.Tensor.to
        monkeypatch.setattr(torch, "empty", self.make_empty)
        monkeypatch.setattr(torch.Tensor, "to", lambda t, *a, **k: self.move(t, *a, **k))
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, stream: self.keep())
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)

    def make_empty(self, *args, pin_memory=False, **kwargs):
        out = self.empty(*args, **kwargs)
        if pin_memory:
            self.pinned.append(out.data_ptr())
        return out

    @contextmanager
    def stream(self, stream):
        self.inside = True
        yield
        self.inside = False

    def move(self, t, *args, non_blocking=False, **kwargs):
        if args[:1] != (torch.device("cuda"),):
            return self.to(t, *args, **kwargs)
        assert non_blocking
        if not self.inside:
            self.waited_for += t.dtype == torch.uint8  # images, beside the work
            return t
        assert t.data_ptr() == self.pinned[-1]
        there = torch.full_like(t, 77)
        self.sent.append((t, there))
        return there

    def record_event(self):
        return len(self.sent) - 1

    def wait_event(self, event):
        assert event == len(self.ahead)  # in order
        self.ahead.append(len(self.sent) - event)
        here, there = self.sent[event]
        there.copy_(here)

    def keep(self):
        self.kept += 1
