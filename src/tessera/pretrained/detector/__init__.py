"""GenEval's object detector and the color classifier of its objects."""
