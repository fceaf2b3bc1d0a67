"""Makes a tokenizer of a text set: byte-level BPE, as a `tokenizers` JSON file.

    python tools/make_tokenizer.py --name=tfds:c4/en --vocab_size=32768 \
      --data_dir=DIR --out=c4_tokenizer.json

From the first documents of the training split. Any text is valid in it, since
single bytes are tokens, too.
"""

import argparse
import itertools
import pathlib
import sys

END = "<|endoftext|>"


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--name", required=True, help="tfds:NAME")
  parser.add_argument("--vocab_size", type=int, default=32_768)
  parser.add_argument("--data_dir", default="", help="where TFDS prepared it")
  parser.add_argument("--split", default="train")
  parser.add_argument("--documents", type=int, default=1_000_000)
  parser.add_argument("--out", required=True)
  options = parser.parse_args()
  if options.vocab_size < 257:
    parser.error("--vocab_size must be at least 257: the bytes and an end")

  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  import jaxplay
  from jaxplay import data, rundir

  try:
    rundir.make_folder(pathlib.Path(options.out).parent)  # Before the work.
    texts = data.tfds_documents(options.name, options.data_dir, options.split)
  except jaxplay.UserError as error:
    parser.error(str(error))
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=options.vocab_size,
    special_tokens=[END],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
  )
  first = itertools.islice(texts, options.documents)
  tokenizer.train_from_iterator(first, trainer)
  tokenizer.save(options.out)
  print(f"{options.out}: {tokenizer.get_vocab_size():,} tokens")
  return 0


if __name__ == "__main__":
  sys.exit(main())
