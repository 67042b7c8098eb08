"""A copy of the stack's secret in memory: read again after a while, and before a sender is refused."""

import json
import threading
import time

# A copy of this age is good enough to refuse a sender by, and the secret is read no more often than this.
FRESH_SECONDS = 5

# Time beyond its age for which a copy is used while Secrets Manager cannot be read.
BRIDGED_SECONDS = 3600

# While an old copy bridges an outage, Secrets Manager is not called for this time after a failure.
PAUSE_SECONDS = 30


class SecretUnavailable(Exception):
    """The secret cannot be read, or not be used."""


class SecretCache:
    """The fields of the secret that `parse` takes from it. Threads may share it."""

    def __init__(self, client, arn, cache_seconds, parse):
        self._client = client
        self._arn = arn
        self._cache_seconds = cache_seconds
        self._parse = parse
        self._lock = threading.Lock()
        self._copy = None
        self._read_at = None
        self._failed_at = None

    def get(self):
        """A copy of at most `cache_seconds`, or an hour more while the secret cannot be read."""
        with self._lock:
            bridges = self._copy is not None and self._age() < self._cache_seconds + BRIDGED_SECONDS
            try:
                return self._at_most(self._cache_seconds, PAUSE_SECONDS if bridges else FRESH_SECONDS)
            except SecretUnavailable:
                if bridges:
                    return self._copy
                raise

    def get_fresh(self):
        """The secret as it was within the last seconds."""
        with self._lock:
            return self._at_most(min(FRESH_SECONDS, self._cache_seconds), FRESH_SECONDS)

    def _age(self):
        return time.time() - self._read_at

    def _at_most(self, age, pause):
        if self._copy is not None and self._age() < age:
            return self._copy
        if self._failed_at is not None and time.time() - self._failed_at < pause:
            raise SecretUnavailable("it could not be read a moment ago")
        began = time.time()
        try:
            answer = self._client.get_secret_value(SecretId=self._arn)
            self._copy = self._parse(json.loads(answer["SecretString"]))
        except Exception as error:
            self._failed_at = time.time()
            # A parser's message can quote the value, which must not reach a log.
            raise SecretUnavailable(type(error).__name__) from None
        self._read_at, self._failed_at = began, None
        return self._copy


def as_list(value):
    """A list of one may be given as a string, and may be absent."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
