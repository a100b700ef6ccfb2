"""Dialogues, answered as streams of server-sent events; `traffic` says how they arrive."""

from __future__ import annotations

import json
import time

from traffic import Answer, Failed, Traffic

PATH = "/v1/chat/completions"


class Dialogues(Traffic):
    """Asks for the assistant's next words, as a stream with usage at its end."""

    def ask(self, body: str) -> Answer:
        """One request; the unit is a token that was generated, as the server counts them."""
        first_s, num_tokens = None, 0
        response = self.post(PATH, body, stream=True)
        while line := response.stream.readline(b"\n"):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise Failed("an error in the stream")
            if first_s is None and any(choice["delta"].get("content") for choice in event["choices"]):
                first_s = time.perf_counter()
            if event.get("usage"):
                num_tokens = event["usage"]["completion_tokens"]
        if first_s is None or not num_tokens:
            raise Failed("a stream without text")
        return Answer(num_tokens, first_s)
