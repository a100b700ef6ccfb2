"""Workloads, and the contract through which the platform knows them."""
