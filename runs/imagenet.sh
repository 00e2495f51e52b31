#!/usr/bin/env bash
# The paper on ImageNet, in order: images, captions, encodings, six models, samples. Run it again to resume.
#
#   runs/imagenet.sh IMAGENET OUT
#
# IMAGENET: ILSVRC2012 as it comes (a folder, the tar of tars, or Parquet files). OUT: needs about 1.2 TB: 500 GB for each
# encoded set of long captions (0.39 MB an image), 8 GB for every checkpoint that stays.
# NPROC: GPUs of this machine (all of them). PEAK: a GPU's stated TFLOP/s, for the log (989: H100, H200 in bf16).
# DETECTOR: GenEval's detector, mmdetection's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco .pth (none: no scores).
# Expected time of the trainings: 6 x about 130 hours of H200; `tessera plan` says that of the rest. Every stage that is
# done is skipped at once.
set -euo pipefail
imagenet=$(realpath "${1:?say where ImageNet is}") out=${2:?say where to work}
nproc=${NPROC:-gpu} peak=${PEAK:-989} detector=${DETECTOR:+$(realpath "$DETECTOR")}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600  # seconds for a checkpoint after Ctrl-C or SIGTERM; torchrun's own are 30
on_gpus() { torchrun --standalone --nproc-per-node "$nproc" -m tessera.cli "$@"; }
mkdir -p "$out" && cd "$out"

# Section 3.1 and 3.2: crops, CutMix (all four patterns, 25% each), captions.
tessera collect "$imagenet" --size 256 --out images
tessera augment images --pattern all --out recipe
tessera caption images --captioner aio --out captions/aio
# vLLM, where it is installed, is expected to answer several times as fast as transformers: one server with a copy on each GPU.
llava=(--captioner llava --engine processes)
if command -v vllm > /dev/null && [ ! -f captions/ta_ia/manifest.json ]; then
  tessera export-captioner --out captioner
  gpus=$nproc; [ "$gpus" = gpu ] && gpus=$(nvidia-smi --list-gpus | wc -l)
  vllm serve captioner --limit-mm-per-prompt '{"image": 2}' --data-parallel-size "$gpus" &
  server=$!
  trap 'kill $server' EXIT
  until curl --silent --fail http://127.0.0.1:8000/health; do sleep 5; kill -0 $server; done
  llava=(--captioner openai --server http://127.0.0.1:8000/v1 --concurrency $((256 * gpus)))
fi
tessera caption images "${llava[@]}" --out captions/ta
tessera caption images "${llava[@]}" --recipe recipe --out captions/ta_ia
[ -z "${server:-}" ] || { kill "$server"; wait "$server" || true; trap - EXIT; }

# Appendix A: Stable Diffusion's VAE, Flan-T5-XL.
vae=stabilityai/sd-vae-ft-ema text=google/flan-t5-xl
frozen=(--latents "$vae" --text "$text" --engine processes)
tessera encode images captions/aio "${frozen[@]}" --out encoded/aio
tessera encode images captions/ta "${frozen[@]}" --out encoded/ta
tessera encode images captions/ta_ia --recipe recipe "${frozen[@]}" --out encoded/ta_ia

# Section 3.3 and 4.1: Algorithm 1, 250k steps of 1024 for each model and arm (Tables 1 to 3).
for model in cad-i-l dit-i-l2; do
  for arm in aio ta ta_ia; do
    sets=(--plain "encoded/${arm%_ia}")
    [ "$arm" = ta_ia ] && sets+=(--augmented encoded/ta_ia)
    on_gpus train "$model:$arm" "${sets[@]}" --peak-tflops "$peak" --out "runs/$model-$arm"
    tessera export "runs/$model-$arm" --out "export/$model-$arm"
  done
done

# Section 4.1: 250 steps of DDIM, in bf16 as in training; the prompts of Figure 4, and GenEval's, original and extended (Table 2).
tessera extend-prompts geneval --out prompts/geneval
for model in cad-i-l dit-i-l2; do
  for arm in aio ta ta_ia; do
    on_gpus generate "export/$model-$arm" --prompts figure4 --extended --compute bf16 \
      --out "samples/$model-$arm/figure4"
    for kind in short extended; do
      longer=(); [ "$kind" = extended ] && longer=(--extended)
      on_gpus generate "export/$model-$arm" --prompts prompts/geneval/prompts.jsonl "${longer[@]}" --per-prompt 4 --compute bf16 \
        --out "samples/$model-$arm/$kind"
    done
    [ -z "$detector" ] || on_gpus evaluate geneval --samples "samples/$model-$arm/short" \
      --extended-samples "samples/$model-$arm/extended" --detector "$detector" --out "scores/$model-$arm"
  done
done

[ -z "$detector" ] || tessera report scores/*/original scores/*/extended --out report

# 512 px, as later versions of the paper: the same stages at --size 512, then
#   on_gpus train cad-i-l-512:ta_ia --init export/cad-i-l-ta_ia --plain encoded512/ta --augmented encoded512/ta_ia ...
