"""A knowledge base: documents in chunks, their embeddings, and the model that embeds questions."""

from mizzen.workloads.knowledge.workload import KnowledgeWorkload

workload = KnowledgeWorkload()

__all__ = ["KnowledgeWorkload", "workload"]
