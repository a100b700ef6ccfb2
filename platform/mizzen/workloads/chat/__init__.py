"""Chat: language models that continue conversations, fine-tuned here or taken as they are."""

from mizzen.workloads.chat.workload import ChatWorkload

workload = ChatWorkload()

__all__ = ["ChatWorkload", "workload"]
