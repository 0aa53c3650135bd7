"""Workers of one kind that live long and may die: each request still gets an answer or a failure.

One thread drives them all, through `Pool.map`; between two calls nothing happens but what the workers do by themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass

from reasoning_compiler.core.errors import ReasoningCompilerError
from reasoning_compiler.core.measurements import Failure
from reasoning_compiler.core.processes.worker import Answer, Entry, Request, Worker, exchange

_MAX_START_FAILURES = 3


@dataclass(frozen=True)
class Preparation:
    """What a worker must have done before it can take certain requests, once for all of them.

    Args:
        key: tells preparations apart; a worker says which it holds.
        request: what it does for that.
    """

    key: str
    request: Request


@dataclass(eq=False)
class Job:
    """A request on its way.

    Args:
        work: the call of `Pool.map` that it belongs to.
        index: which of its requests.
        request: what is to be done.
        tries: how often it was begun in vain.
    """

    work: _Work
    index: int
    request: Request
    tries: int = 0


class Pool:
    """Workers of one kind, started at once and in the background.

    A worker that dies or does not answer in time is replaced. So is one whose answer nobody waits for any more.

    Args:
        num_workers: processes, ≥ 1.
        entry: what they call.
    """

    def __init__(self, num_workers: int, entry: Entry) -> None:
        self._entry = entry
        self._start_failures = 0
        self._workers = [Worker(entry) for _ in range(num_workers)]
        self._jobs: dict[Worker, Job] = {}
        self._works: list[_Work] = []  # one may begin while another is still iterated over

    @property
    def pids(self) -> list[int]:
        """The process ids of the present workers."""
        return [worker.pid for worker in self._workers]

    def wait_until_ready(self, needs: Preparation | None = None) -> None:
        """Returns once every worker can take a request.

        Args:
            needs: what it must have done for that.

        Raises:
            ReasoningCompilerError: workers do not start, or cannot do it.
        """
        while True:
            self._replace_the_spent()
            if all([self._is_ready(worker, needs) for worker in self._workers]):  # each begins to prepare
                return
            self._step()

    def map(self, requests: Iterable[Request], needs: Preparation | None = None) -> Iterator[tuple[int, Answer]]:
        """Yields (index, answer or failure) of each request, as they come.

        Args:
            requests: each is taken when a worker is free for it.
            needs: what a worker must have done before it takes one.

        Raises:
            ReasoningCompilerError: workers do not start, or cannot do what is needed.
        """
        work = _Work(requests, needs)
        self._works.append(work)
        try:
            while not work.is_done:
                self._replace_the_spent()
                for worker in self._workers:
                    self._employ(worker)
                if work.is_done:
                    return
                self._step()
                while work.outcomes:
                    yield work.outcomes.popleft()
        finally:
            self._works.remove(work)
            for worker in [worker for worker, job in self._jobs.items() if job.work is work]:
                del self._jobs[worker]
                worker.give_up()

    def ask(self, request: Request, needs: Preparation | None = None) -> Answer:
        """Returns the answer to one request, or its failure; see `map`."""
        ((_, outcome),) = self.map([request], needs)
        return outcome

    def close(self) -> None:
        """Ends all workers. May be called again."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    # -- what a pool of another kind may do otherwise ---------------------------------------------------------------

    def _can_work(self, worker: Worker) -> bool:
        """Returns whether an idle worker may be given something to do."""
        return True

    def _is_spent(self, worker: Worker) -> bool:
        """Returns whether an idle worker must be replaced before it takes another request."""
        return worker.is_dead

    def _prepare(self, worker: Worker, needs: Preparation) -> None:
        """Makes an idle worker do what later requests need."""
        if worker.has_fork:
            worker.end_fork()
        else:
            worker.begin(needs.request, state="preparing")

    def _note_unprepared(self, worker: Worker, failure: Failure) -> None:
        """Takes note of a worker that could not do what later requests need."""
        self._note_start_failure("preparing its data", failure)

    def _note_prepared(self, worker: Worker) -> None:
        """Takes note of a worker that has done what later requests need."""

    def _settle(self, worker: Worker, job: Job, outcome: Answer) -> None:
        """Takes what became of a job."""
        job.work.finish(job, outcome)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _is_ready(self, worker: Worker, needs: Preparation | None) -> bool:
        """Returns whether a worker could take a request now; if it is idle and not prepared, it begins to prepare."""
        if worker.state != "idle" or not self._can_work(worker):
            return False
        if needs is None or needs.key in worker.prepared:
            return True
        self._prepare(worker, needs)
        return False

    def _employ(self, worker: Worker) -> None:
        """Gives an idle worker the next request, of the latest call that still has any."""
        for work in reversed(self._works):
            if not work.may_have_more:
                continue
            if self._is_ready(worker, work.needs) and (job := work.take()) is not None:
                self._jobs[worker] = job
                worker.begin(job.request)
            if worker.state != "idle":
                return

    def _step(self) -> None:
        """Waits until something happens, and takes note of it."""
        exchange([worker for worker in self._workers if worker.state != "idle"])
        for worker in list(self._workers):
            state, outcome = worker.state, worker.take_outcome()
            if outcome is None:
                continue
            if worker in self._jobs:
                self._start_failures = 0
                self._settle(worker, self._jobs.pop(worker), outcome)
            elif state == "preparing":
                if isinstance(outcome, Failure):
                    self._note_unprepared(worker, outcome)
                else:
                    self._note_prepared(worker)
            elif isinstance(outcome, Failure):
                self._note_start_failure("starting", outcome)
            if worker.retires:
                self._renew(worker)

    def _replace_the_spent(self) -> None:
        for worker in list(self._workers):
            if worker.state == "idle" and self._is_spent(worker):
                self._replace(worker)

    def _renew(self, worker: Worker) -> None:
        """Puts something fresh in the place of a worker that may be damaged: of its fork only, where it has one."""
        if worker.has_fork:
            worker.end_fork()
        elif worker in self._workers:
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        worker.kill()
        self._workers[self._workers.index(worker)] = Worker(self._entry)

    def _note_start_failure(self, doing: str, failure: Failure) -> None:
        self._start_failures += 1
        if self._start_failures >= _MAX_START_FAILURES:
            raise ReasoningCompilerError(
                f"the {self._entry.role} process failed {doing} ({failure.kind}: {failure.message}): "
                "run `reasonc doctor` to see what is wrong with this installation"
            )


class _Work:
    """The requests of one `map`, from the first that is taken to the last outcome."""

    def __init__(self, requests: Iterable[Request], needs: Preparation | None) -> None:
        self.needs = needs
        self.may_have_more = True
        self.outcomes: deque[tuple[int, Answer]] = deque()
        self._num_left = len(requests) if isinstance(requests, Sized) else None
        self._requests = enumerate(requests)
        self._again: deque[Job] = deque()
        self._num_running = 0

    @property
    def is_done(self) -> bool:
        return not (self.may_have_more or self._num_running or self.outcomes)

    def take(self) -> Job | None:
        """Returns the next job; None where there are no more."""
        if self._again:
            job = self._again.popleft()
        elif (following := next(self._requests, None)) is not None:
            job = Job(self, *following)
        else:
            self._num_left = 0
            job = None
        if self._num_left and job is not None and not job.tries:
            self._num_left -= 1
        self.may_have_more = bool(self._again) or self._num_left != 0
        self._num_running += job is not None
        return job

    def finish(self, job: Job, outcome: Answer) -> None:
        """Takes what became of a job."""
        self._num_running -= 1
        self.outcomes.append((job.index, outcome))

    def put_back(self, job: Job) -> None:
        """Takes a job back that must be begun again."""
        self._num_running -= 1
        self.may_have_more = True
        self._again.append(job)
