"""The papers' tables and figures: for each its question, the rows that answer it, and the paper's results on ImageNet.

A row is a label and the settings in which it differs; everything else (seed, order of the images, epochs) is the same
for all rows. A row lists no setting that has its default, so that experiments can share its run. The papers' results
are top-1 and top-5 on ImageNet in percent. A row without them has no known result.
"""

from dataclasses import replace

from xnor_ref.experiments.definition import XNOR_NET, XNOR_NET_PP, Experiment, Paper, Row


def _table(name: str) -> str:
    return f"{XNOR_NET}, {name}"


_ALEXNET = _table("Table 1, AlexNet")
_RESNET = _table("Table 2, ResNet-18")
_GOOGLENET = _table("Table 2, GoogLenet variant")
_WORKED_OUT = f"{XNOR_NET}: 1.4 points less than 44.2"
_FULL = Row("full", "full precision", {"method": "full"}, Paper(56.6, 80.2, _ALEXNET))
_BWN = Row("bwn", "Binary-Weight-Network", {"method": "bwn"}, Paper(56.8, 79.4, _ALEXNET))
_BC = Row("binaryconnect", "BinaryConnect", {"method": "binaryconnect"}, Paper(35.4, 61.0, _ALEXNET))
_XNOR = Row("xnor", "XNOR-Net", {"method": "xnor"}, Paper(44.2, 69.2, _ALEXNET))
_BNN = Row("bnn", "BinaryNet", {"method": "bnn"}, Paper(27.9, 50.42, _ALEXNET))

_OWN_OPTIMISER = (
    "The paper trains BWN and BinaryConnect with SGD and the others with Adam; here every row has the same optimiser "
    "and loss. BinaryConnect and BinaryNet have learning rates of their own: those of their latent weights are "
    "scaled, as in their authors' codes. AlexNet has the layout of the released XNOR-Net in every row, without the "
    "dropout of 0.1 that the released Binary-Weight-Network has."
)
_OTHERS_BNN = (
    "The paper's BinaryConnect and BinaryNet rows are its authors' own short runs. Others report more for BinaryNet on "
    "AlexNet: 36.3 top-1 (larq), 41.8 (its authors)."
)
_WITHOUT_K = {"input_scale": "off"}
_NO_PAPER = "The paper prints no figures for this."

PAPERS = (
    Experiment(
        "table1",
        "Table 1: binary networks against each other",
        "How much accuracy do binary weights cost, how much binary inputs, and what do scale factors give back?",
        (_FULL, _BWN, _BC, _XNOR, _BNN),
        notes=(_OWN_OPTIMISER, _OTHERS_BNN),
    ),
    Experiment(
        "table2",
        "Table 2: other networks",
        "Does what holds for AlexNet hold for a residual network, and for the GoogLenet variant?",
        tuple(
            Row(
                f"{model}-{method}",
                f"{network}, {label}",
                {"model": model, "method": method},
                paper,
                base=f"{model}-full",
            )
            for network, model, method, label, paper in (
                ("ResNet-18", "resnet18", "full", "full precision", Paper(69.3, 89.2, _RESNET)),
                ("ResNet-18", "resnet18", "bwn", "BWN", Paper(60.8, 83.0, _RESNET)),
                ("ResNet-18", "resnet18", "xnor", "XNOR-Net", Paper(51.2, 73.2, _RESNET)),
                ("GoogLenet", "googlenet", "full", "full precision", Paper(71.3, 90.0, _GOOGLENET)),
                ("GoogLenet", "googlenet", "bwn", "BWN", Paper(65.5, 86.1, _GOOGLENET)),
                ("GoogLenet", "googlenet", "xnor", "XNOR-Net", None),
            )
        ),
        settings={"quick": {"train_size": 1500, "val_size": 600, "lr": 0.002}},
        notes=("The paper gives no XNOR-Net figure for the GoogLenet variant.",),
    ),
    Experiment(
        "table3a",
        "Table 3a: where alpha comes from",
        "Is the closed form alpha = mean|W| better than a scale that is learned, and than none?",
        (
            Row("alpha", "closed form (eq. 6)", {}, Paper(56.8, 79.4, _table("Table 3a"))),
            Row("learned", "a learned layer", {"weight_scale": "learned"}, Paper(46.2, 69.5, _table("Table 3a"))),
            Row("none", "none", {"weight_scale": "off"}),
        ),
        settings={"all": {"method": "bwn"}},
        notes=(
            "Where only ReLU and pooling stand between a layer and its BatchNorm, BatchNorm absorbs any scale, and "
            "rows can differ by their optimisation only. The paper has no row without a scale.",
        ),
    ),
    Experiment(
        "table3b",
        "Table 3b: the order within a block",
        "Does it matter whether BatchNorm and sign stand before the convolution or after it?",
        (
            Row("bacp", "B-A-C-P", {"relu": False, **_WITHOUT_K}, Paper(44.2, 69.2, _table("Table 3b"))),
            Row("cbap", "C-B-A-P", {"block_order": "cbap"}, Paper(30.3, 57.5, _table("Table 3b"))),
            Row("bacp-relu", "B-A-C-P, ReLU after C", {"relu": True, **_WITHOUT_K}),
        ),
        settings={"all": {"method": "xnor"}},
        notes=(
            "No row has K: in C-B-A-P a convolution gets signs, with mean |x| = 1, and the released code has none. "
            "Networks with shortcuts have no C-B-A-P: it would add to signs. The ReLU is optional in the paper and "
            "missing in its released code.",
        ),
    ),
    Experiment(
        "binary-gradient",
        "Binary gradients",
        "What does it cost to binarise the gradient as well, max|g| sign(g), on the way to the inputs?",
        (
            Row("real", "real gradient", {}, Paper(44.2, 69.2, _ALEXNET)),
            Row("binary", "binary gradient", {"grad_bits": 1}, Paper(42.8, None, _WORKED_OUT)),
        ),
        settings={"all": {"method": "xnor"}},
        notes=("The paper says that binary gradients cost 1.4 points of top-1; 42.8 is worked out from that.",),
    ),
    Experiment(
        "kbit",
        "More bits",
        "How fast does accuracy come back with more bits for weights and inputs?",
        (
            Row("w1-a1", "1-bit weights, 1-bit inputs", {}),
            Row("w1-a2", "1-bit weights, 2-bit inputs", {"input_bits": 2}),
            Row("w1-a4", "1-bit weights, 4-bit inputs", {"input_bits": 4}),
            Row("w2-a2", "2-bit weights, 2-bit inputs", {"weight_bits": 2, "input_bits": 2}),
            Row("w4-a4", "4-bit weights, 4-bit inputs", {"weight_bits": 4, "input_bits": 4}),
            Row("full", "full precision", {"method": "full"}),
        ),
        settings={"all": {"method": "xnor"}},
        notes=(_NO_PAPER + " It only says how sign becomes a quantiser of k bits.",),
    ),
    Experiment(
        "gradients",
        "The four weight-gradient rules",
        "Does it matter which gradient the latent weights get: the full Jacobian, the rule as printed, the plain "
        "straight-through estimator, or that of the released code?",
        (
            Row("corrected", "corrected: the full Jacobian", {}),
            Row("paper", "as printed, less the factor r", {"grad_mode": "paper"}),
            Row("ste", "straight-through, alpha held constant", {"grad_mode": "ste"}),
            Row("official", "released code", {"grad_mode": "official"}),
            Row(
                "released",
                "released code, with its centring and clamping",
                {"grad_mode": "official", "centre": True, "clamp": True},
            ),
        ),
        model="vgg-small",
        settings={"all": {"method": "xnor"}},
        notes=(_NO_PAPER + " The released code reaches 43.3 top-1 on ImageNet by its own README.",),
    ),
    Experiment(
        "xnorpp",
        "XNOR-Net++: scales computed or learned",
        "Are learned scales better than analytic ones, in accuracy and as approximations of the real convolution?",
        (
            Row(
                "alpha-k",
                "alpha K (XNOR-Net)",
                {"method": "xnor", "input_scale": "plain"},
                Paper(51.2, 73.2, _RESNET),
            ),
            Row("alpha", "alpha", {"method": "xnor", "input_scale": "off"}),
            Row("o", "Gamma, case 1: o", {"method": "xnor++", "gamma": "o"}),
            Row("ohw", "Gamma, case 2: ohw", {"method": "xnor++", "gamma": "ohw"}),
            Row("o-hw", "Gamma, case 3: o-hw", {"method": "xnor++", "gamma": "o-hw"}),
            Row(
                "o-h-w",
                "Gamma, case 4: o-h-w",
                {"method": "xnor++", "gamma": "o-h-w"},
                Paper(57.1, None, f"{XNOR_NET_PP}, ResNet-18"),
            ),
        ),
        model="resnet18",
        notes=("The paper's figures of cases 1 to 3 are not shown.",),
        approximation=True,
    ),
    Experiment(
        "padding",
        "What stands beyond the border",
        "Does it matter whether the border of sign(X) counts as 0, +1 or -1?",
        (
            Row("zero", "0", {}),
            Row("plus", "+1", {"pad_value": 1}),
            Row("minus", "-1", {"pad_value": -1}),
            Row("zero-valid", "0, K over the taps inside", {"input_scale": "valid"}),
        ),
        model="vgg-small",
        settings={"all": {"method": "xnor", "input_scale": "plain"}},
        notes=(_NO_PAPER + " It does not say what it pads with; torch's sign leaves zeros at 0.",),
    ),
    Experiment(
        "mst",
        "MST-compression: accuracy against XNORs",
        "How many XNORs does a network need along the trees of its filters if they are pulled together in "
        "training, and what does that cost?",
        (
            Row("none", "not pulled", {"mst_lambda": 0.0}),
            *(Row(f"tree-{s:g}", f"tree, lambda {s:g}", {"mst_lambda": s}) for s in (0.02, 0.05, 0.1, 0.2, 0.3)),
            *(
                Row(f"centre-{s:g}", f"centre, lambda {s:g}", {"mst_lambda": s, "mst_pull": "centre"})
                for s in (0.05, 0.1)
            ),
        ),
        model="vgg-small",
        settings={"all": {"method": "xnor"}},
        notes=(
            "No figure of the MST-compression paper is shown, and its learning algorithm is reconstructed "
            "(training/callbacks/mst.py); compare rows with each other. `--model resnet18` and `--model resnet20` "
            "take other networks.",
        ),
        compression=True,
    ),
    Experiment(
        "figure5",
        "Figure 5: accuracy by epoch",
        "Do Binary-Weight-Networks and XNOR-Net lead BinaryConnect and BinaryNet in every epoch?",
        (_BWN, replace(_BC, base="bwn"), _XNOR, replace(_BNN, base="xnor")),
        notes=(
            "The paper does not tabulate its curves, and reads a margin of about 17 points off them. Its figures "
            "in the table are the last points, those of its Table 1; so are ours, the plot has every epoch.",
            _OWN_OPTIMISER,
        ),
    ),
)
