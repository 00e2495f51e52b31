"""Weights on disk: the export of a trained network, and the published weights of CAD-I."""

from tessera.weights.export import ExportInfo, load_export, save_export
from tessera.weights.published import load_published

__all__ = ["ExportInfo", "load_export", "load_published", "save_export"]
