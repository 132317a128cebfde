"""Masked patches selection (MPS): features, clusters, lesion scores, hit rates."""
