"""Studies: many trainings that differ in one thing, as one table with intervals."""

from tessera.study.design import Study, Variant

__all__ = ["Study", "Variant"]
