"""Mizzen on clusters: jobs on Kubernetes and on Ray, and what runs there, explained."""
