#!/usr/bin/env bash
# The paper on ImageNet, in order: pictures, captions, encodings, six models, samples. Run it again to go on after a stop.
#
#   runs/imagenet.sh IMAGENET OUT
#
# IMAGENET: ILSVRC2012 as it comes (a folder, the tar of tars, or Parquet files). OUT: needs about 1.2 TB: 500 GB for each
# encoded set of long captions (0.39 MB a picture), 8 GB for every checkpoint that is kept.
# NPROC: GPUs of this machine (all of them). PEAK: a GPU's stated TFLOP/s, for the log (989: H100, H200 in bf16).
# CAPTIONER: writes the long captions (llava: LLaVA-NeXT, 8B), on every GPU of this machine at once.
# Expected time of the trainings: 6 x about 100 hours of H200; captions: the paper's captioner at the speed that
# `tessera caption` prints. Every stage but the trainings is skipped at once when it is done, and so are they.
set -euo pipefail
imagenet=$(realpath "${1:?say where ImageNet is}") out=${2:?say where to work}
nproc=${NPROC:-gpu} peak=${PEAK:-989} captioner=${CAPTIONER:-llava}
on_gpus() { torchrun --standalone --nproc-per-node "$nproc" -m tessera.cli "$@"; }
mkdir -p "$out" && cd "$out"

# Section 3.1 and 3.2: crops, CutMix (all four patterns, 25% each), captions.
tessera collect "$imagenet" --size 256 --out images
tessera augment images --pattern all --out recipe
tessera caption images --captioner aio --out captions/aio
on_gpus caption images --captioner "$captioner" --out captions/ta
on_gpus caption images --captioner "$captioner" --recipe recipe --out captions/ta_ia

# Appendix A: Stable Diffusion's VAE, Flan-T5-XL.
vae=stabilityai/sd-vae-ft-ema text=google/flan-t5-xl
tessera encode images captions/aio --latents "$vae" --text "$text" --out encoded/aio
tessera encode images captions/ta --latents "$vae" --text "$text" --out encoded/ta
tessera encode images captions/ta_ia --recipe recipe --latents "$vae" --text "$text" --out encoded/ta_ia

# Section 3.3 and 4.1: Algorithm 1, 250k steps of 1024 for each model and arm (Tables 1 to 3).
for model in cad-i-l dit-i-l2; do
  for arm in aio ta ta_ia; do
    sets=(--plain "encoded/${arm%_ia}")
    [ "$arm" = ta_ia ] && sets+=(--augmented encoded/ta_ia)
    on_gpus train "$model:$arm" "${sets[@]}" --peak-tflops "$peak" --out "runs/$model-$arm"
    tessera export "runs/$model-$arm" --out "export/$model-$arm"
  done
done

# Section 4.1: 250 steps of DDIM; the prompts of Figure 4, and GenEval's, original and extended.
for model in cad-i-l dit-i-l2; do
  for arm in aio ta ta_ia; do
    on_gpus generate "export/$model-$arm" --prompts figure4 --extended --out "samples/$model-$arm/figure4"
    on_gpus generate "export/$model-$arm" --prompts geneval --per-prompt 4 --out "samples/$model-$arm/short"
  done
done

# 512 px, as later versions of the paper: the same stages at --size 512, then
#   on_gpus train cad-i-l-512:ta_ia --init export/cad-i-l-ta_ia --plain encoded512/ta --augmented encoded512/ta_ia ...
