"""Ray Jobs: a command that runs on a cluster, while its log comes back here."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import math
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rlcap.errors import ConfigError, RunError

log = logging.getLogger(__name__)

STOP_WAIT_S = 600
"""What `ray job stop` grants a run to write a checkpoint, before Ray kills it; Ray's own default is 3."""
LOST_CONTACT_S = 300.0
"""How long the dashboard may stay silent: ports that are forwarded break, while the run goes on."""
POLL_S = 1.0
"""Pause before the next look at a job whose log has ended, or cannot be reached."""


class RayJobs:
    """The job server of one cluster."""

    def __init__(self, address: str, *, timeout_s: float) -> None:
        """Connect.

        Raises:
            ConfigError: the packages of `rlcap[jobs]` are missing.
            RunError: nobody answers at `address` within `timeout_s`, or not to us.
        """
        if importlib.util.find_spec("aiohttp") is None:
            raise ConfigError(
                "cluster.job_address needs Ray's job client, which is not installed: pip install rlcap[jobs]"
            )
        # It would tell of every connection that ends.
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        try:
            self._client = _ImpatientClient(address, timeout_s)
        except AuthenticationError as refused:
            raise RunError(
                f"the Ray cluster at {address} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH"
            ) from refused
        except (OSError, RuntimeError, ValueError) as error:
            raise RunError(
                f"no Ray dashboard answers at {address} ({_first_line(error)}): see that the cluster is up, "
                "and the port forwarded"
            ) from error
        self.address: str = self._client.get_address()
        """Where the server is: RAY_API_SERVER_ADDRESS and RAY_ADDRESS win over the given address, as for `ray job`."""

    def submit(self, words: Sequence[str]) -> str:
        """Start a command on the cluster; returns the name of the job.

        Raises:
            RunError: the cluster does not take it.
        """
        environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}
        try:
            job: str = self._client.submit_job(entrypoint=shlex.join(words), runtime_env=environment)
        except (OSError, RuntimeError) as error:
            raise RunError(f"the Ray cluster at {self.address} takes no jobs: {_first_line(error)}") from error
        return job

    def follow(self, job: str, write: Callable[[str], object]) -> int:
        """Write the log of a job as it grows; returns the exit code of its command. Lost connections are made anew.

        Raises:
            RunError: the job was stopped, never began, or cannot be reached for `LOST_CONTACT_S`.
        """
        job_log = JobLog(self._client, job, write)
        silent_since = math.inf
        while True:
            asyncio.run(job_log.tail())
            try:
                details = self._client.get_job_info(job)
            except (OSError, RuntimeError) as error:
                silent_since = min(silent_since, time.monotonic())
                if time.monotonic() - silent_since > LOST_CONTACT_S:
                    raise RunError(
                        f"the Ray dashboard at {self.address} has not answered for {LOST_CONTACT_S:.0f} s "
                        f"({_first_line(error)}); the run may be going on: {self.how_to_follow(job)}"
                    ) from error
            else:
                if details.status.is_terminal():
                    return _exit_code(job, details)
                silent_since = math.inf
            time.sleep(POLL_S)

    def how_to_follow(self, job: str) -> str:
        """Say how to see the log again, and how to end the job."""
        return (
            f"follow it with `ray job logs --follow --address={self.address} {job}`, end it, after a checkpoint, "
            f"with `ray job stop --address={self.address} {job}`"
        )


class _ImpatientClient(JobSubmissionClient):
    """Ray's client, which has no time limits of its own."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:  # noqa: ANN401
        return super()._do_request(method, endpoint, timeout=self._timeout_s, **kwargs)


class JobLog:
    """What a job has said, of which each part is written once."""

    def __init__(self, client: JobSubmissionClient, job: str, write: Callable[[str], object]) -> None:
        self._client = client
        self._job = job
        self._write = write
        self._num_written = 0

    async def tail(self) -> None:
        """Write what comes, until the job or the connection ends."""
        import aiohttp

        position = 0
        try:
            async with asyncio.timeout(LOST_CONTACT_S) as limit:
                # A new connection begins with the first line again.
                async for text in self._client.tail_job_logs(self._job):
                    limit.reschedule(asyncio.get_running_loop().time() + LOST_CONTACT_S)
                    fresh = text[max(0, self._num_written - position) :]
                    position += len(text)
                    if fresh:
                        self._write(fresh)
                        self._num_written = position
        except TimeoutError:
            return  # a job may be silent for long, but so is a connection whose other end is gone
        except (OSError, RuntimeError, aiohttp.ClientError) as lost:
            log.info("the connection to the log of %s is lost, and is made again: %s", self._job, _first_line(lost))


def _exit_code(job: str, details: JobDetails) -> int:
    if details.status is JobStatus.SUCCEEDED:
        return 0
    if details.driver_exit_code is None:
        raise RunError(
            f"the job {job} is {details.status.value}: {_first_line(details.message or 'no reason is known')}"
        )
    code: int = details.driver_exit_code
    return code if 0 < code < 256 else 1


def _first_line(text: object) -> str:
    return str(text).strip().split("\n")[0]
