"""Mizzen: distributed training and serving of recommendation, chat and forecasting models."""
