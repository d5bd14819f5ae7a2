"""The claims about transformers."""

from experiments.lab.claims import Above, Below, Claim, Within

_NATS = {"unit": "nats", "form": "+.3f"}
_XIONG = {"source": "Xiong et al., 2020, arXiv:2002.04745", **_NATS}
_ZHANG = {"source": "Zhang & Sennrich, 2019, arXiv:1910.07467", **_NATS}
_SHEN = {"source": "Shen et al., 2020, arXiv:2003.07845", **_NATS}
_CHANGED = (
  "after a first run with LeCun's initialization, in which post-LN did not"
  " train in any of its four cells, warm-up or not; the initialization is now"
  " the paper's"
)

POST_IS_WORSE = Claim(
  "Without warm-up, at {rate:g}, post-LN is worse than pre-LN",
  quantity="final validation loss of post minus pre",
  criterion=Above(0.5),
  changed=_CHANGED,
  **_XIONG,
)
WARMUP_HELPS = Claim(
  "Warm-up makes that difference smaller, at {rate:g}",
  quantity="the difference without minus with warm-up",
  criterion=Above(0.25),
  changed=f"{_CHANGED}, and 1e-3 was added",
  **_XIONG,
)
PRE_NEEDS_NONE = Claim(
  "Pre-LN needs no warm-up, at the better learning rate of each",
  quantity="final validation loss without minus with warm-up",
  criterion=Below(0.05),
  **_XIONG,
)
RMS_IS_LN = Claim(
  "RMSNorm ends like LayerNorm, at {rate:g}",
  quantity="final validation loss of rms minus ln",
  criterion=Within(0.05),
  **_ZHANG,
)
RMS_IS_FASTER = Claim(
  "A training step with RMSNorm takes less time than one with LayerNorm",
  source=_ZHANG["source"],
  quantity="rms / ln of 20 pairs of timings in turns, in one process,",
  criterion=Below(1),
)
NONE_IS_WORSE = Claim(
  "Without a norm it ends worse than with LayerNorm, at {rate:g}",
  quantity="final validation loss of none minus ln",
  criterion=Above(0.05),
  **_ZHANG,
)
QK_BOUNDS = Claim(
  "QK norm bounds the largest attention logit at {rate:g}",
  source="Henry et al., 2020, arXiv:2010.04245",
  quantity="log10 of the logits' ratio",
  criterion=Above(1, "a factor of 10"),
)
LN_IS_SAME = Claim(
  "Layer norm does the same in training and in evaluation",
  quantity="validation loss minus that in training mode",
  criterion=Within(1e-4),
  changed='at first "equal to the last bit", which a first run refuted by a'
  " rounding of 2e-7",
  **{**_SHEN, "form": "+.1e"},
)
BN_DIFFERS = Claim(
  "Batch norm's loss with running statistics differs from that with those of"
  " the batch",
  quantity="the difference, in absolute value,",
  criterion=Above(0.02),
  **_SHEN,
)
BN_IS_WORSE = Claim(
  "With {which} statistics, batch norm ends worse than layer norm",
  quantity="final validation loss of bn minus ln",
  criterion=Above(0.05),
  **_SHEN,
)

_THEOREM = "Xiong et al., 2020, arXiv:2002.04745, theorem 1"
DEPTH = {
  "post": Claim(
    "In post-LN, the gradient of the last block at initialization does not"
    " depend on the number of blocks",
    source=_THEOREM,
    quantity="exponent of the number of blocks",
    criterion=Within(0.15),
  ),
  "pre": Claim(
    "In pre-LN, the gradient of the last block at initialization goes with the"
    " number of blocks to the power of -0.5",
    source=_THEOREM,
    quantity="exponent of the number of blocks",
    criterion=Within(0.15, of=-0.5),
  ),
}

CLAIMS = (
  *(POST_IS_WORSE, WARMUP_HELPS, PRE_NEEDS_NONE),
  *DEPTH.values(),
  *(RMS_IS_LN, RMS_IS_FASTER, NONE_IS_WORSE, QK_BOUNDS),
  *(LN_IS_SAME, BN_DIFFERS, BN_IS_WORSE),
)
