"""All dashboards."""

from __future__ import annotations

from board import Board

from boards import chat, cluster, delivery, forecasting, overview, recommendation, training

ALL: tuple[Board, ...] = (
    overview.BOARD,
    chat.BOARD,
    recommendation.BOARD,
    forecasting.BOARD,
    training.BOARD,
    delivery.BOARD,
    cluster.BOARD,
)
