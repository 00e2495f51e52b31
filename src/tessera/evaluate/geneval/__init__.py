"""GenEval: object-focused prompts judged by a detector (Ghosh et al. 2023; paper Table 2)."""

from tessera.evaluate.geneval.verdict import Detection, Verdict, judge

__all__ = ["Detection", "Verdict", "judge"]
