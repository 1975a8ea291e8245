"""Which layers of a teacher a student is made of, and what is refused before a weight is touched."""

from models.config import Config, Layer

SIZES = ("vocab", "width", "heads", "kv_heads", "head_dim")
"""what every layer's weights have, so that it must be the same"""


def heritage(teacher: Config, student: Config, keep: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The numbers of the teacher's layers that the student's are made of, in order.

    `keep` names them; None spreads them evenly, the first and the last among them: of all choices whose positions
    (rotary or none) are the student's, it takes those that change fewest layers between dense and mixture, and of
    these the one nearest to equal steps. So chunked layers stay chunked, and NoPE layers stay where they look back.

    Raises:
        ValueError: a size that weights have differs; the student is deeper, or its positions are not in the teacher's;
            experts do not fall into equal groups; a dense layer does not hold what a mixture does.
    """
    seen = () if teacher.vision is None or student.vision is None else ("vision",)
    _check_same(teacher, student, (*SIZES, *seen))
    kept = _spread(teacher, student) if keep is None else keep
    _check_keep(teacher, student, kept)
    sources, heirs = layers(teacher), layers(student)
    kinds = {(sources[i].moe, own.moe) for i, own in zip(kept, heirs, strict=True)}
    if (True, True) in kinds:
        _check_same(teacher, student, ("expert_width",))
        if teacher.experts > student.experts and teacher.experts % student.experts:
            raise ValueError(
                f"{teacher.experts} experts do not fall into {student.experts} equal groups; give it a number of "
                f"experts that divides {teacher.experts}, or more than that"
            )
    if (False, False) in kinds:
        _check_same(teacher, student, ("dense_width",))
    for mixture, dense, kind in ((teacher, student, (True, False)), (student, teacher, (False, True))):
        if kind in kinds and dense.dense_width != 2 * mixture.expert_width:
            raise ValueError(
                f"a layer changes between mixture and dense, but dense_width {dense.dense_width} is not that of one "
                f"expert beside the shared one, 2 * {mixture.expert_width}; set it so, or keep layers of its own kinds"
            )
    return kept


def layers(config: Config) -> tuple[Layer, ...]:
    """Every layer, first to last."""
    return config.pattern * config.periods


def _check_same(teacher: Config, student: Config, names: tuple[str, ...]) -> None:
    wrong = [name for name in names if vars(teacher)[name] != vars(student)[name]]
    if wrong:
        found = ", ".join(f"{name} ({vars(student)[name]}, not {vars(teacher)[name]})" for name in wrong)
        raise ValueError(f"it differs in {found}: weights of another size cannot be inherited; give it the same")


def _check_keep(teacher: Config, student: Config, keep: tuple[int, ...]) -> None:
    rising = all(a < b for a, b in zip(keep, keep[1:], strict=False))
    if len(keep) != student.layers or not rising or not set(keep) <= set(range(teacher.layers)):
        raise ValueError(
            f"keep is {keep}; it must be {student.layers} rising numbers from 0 to {teacher.layers - 1}: a layer of "
            f"the teacher for each of its own"
        )
    for i, own in zip(keep, layers(student), strict=True):
        if layers(teacher)[i].rope != own.rope:
            kinds = {True: "rotary", False: "without positions"}
            raise ValueError(
                f"keep is {keep}, but layer {i} is {kinds[layers(teacher)[i].rope]} where its own is "
                f"{kinds[own.rope]}; keep layers of its own kinds, or change its pattern"
            )


def _spread(teacher: Config, student: Config) -> tuple[int, ...]:
    """The cheapest way, layer by layer: `best[i]` is the cost of those so far, and which they are, if i is the last."""
    sources, heirs = layers(teacher), layers(student)
    step = (len(sources) - 1) / max(len(heirs) - 1, 1)
    best: dict[int, tuple[tuple[int, float], tuple[int, ...]]] = {-1: ((0, 0.0), ())}
    for n, own in enumerate(heirs):
        found = {}
        for i, source in enumerate(sources):
            before = [entry for last, entry in best.items() if last < i]
            if source.rope == own.rope and before:
                (changed, far), kept = min(before)
                found[i] = (changed + (source.moe != own.moe), far + (i - n * step) ** 2), (*kept, i)
        best = found
    if not best:
        raise ValueError(
            f"its {len(heirs)} layers are {_spell(heirs)} (R rotary, N without positions), which is no selection of "
            f"the teacher's {len(sources)}, {_spell(sources)}; change its layers or its pattern"
        )
    return min(best.values())[1]


def _spell(found: tuple[Layer, ...]) -> str:
    return "".join("R" if layer.rope else "N" for layer in found)
