"""The miniature world: draws a scene, renders it, says it in words; no files."""

from tessera.miniature.words import NUMBER_WORDS, describe, describe_medium, describe_short, place, plural, with_article
from tessera.miniature.world import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    WorldConfig,
    draw_composed,
    draw_scene,
    mix_scene,
    render,
    scene_key,
)

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "NUMBER_WORDS",
    "SHAPES",
    "WorldConfig",
    "describe",
    "describe_medium",
    "describe_short",
    "draw_composed",
    "draw_scene",
    "mix_scene",
    "place",
    "plural",
    "render",
    "scene_key",
    "with_article",
]
