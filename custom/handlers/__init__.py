"""Ignite handlers for training."""
