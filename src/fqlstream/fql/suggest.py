"""What a wrong name may have meant."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

#: Functions of other languages, by the name they have there. What they become here is checked by a test.
ELSEWHERE: Final = {
    "avg": "average(x)",
    "mean": "average(x)",
    "median": "quantile(x, level=0.5)",
    "percentile": "quantile(x, level=0.95)",
    "percentile_cont": "quantile(x, level=0.95)",
    "total": "sum(x)",
    "countif": "sum(if(condition, 1, 0))",
    "count_if": "sum(if(condition, 1, 0))",
    "sumif": "sum(if(condition, x, 0))",
    "averageif": "average(if(condition, x, null))",
    "avgif": "average(if(condition, x, null))",
    "iif": "if(condition, value1, value2)",
    "iff": "if(condition, value1, value2)",
    "case": "if(condition, value1, value2)",
    "when": "if(condition, value1, value2)",
    "coalesce": "if(is_null(x), y, x)",
    "ifnull": "if(is_null(x), y, x)",
    "nvl": "if(is_null(x), y, x)",
    "nullif": "if(x == y, null, x)",
    "isnull": "is_null(x)",
    "isna": "is_null(x)",
    "isblank": "is_null(x)",
    "notnull": "is_not_null(x)",
    "isnotnull": "is_not_null(x)",
    "len": "length(x)",
    "char_length": "length(x)",
    "strlen": "length(x)",
    "substr": "substring(x, offset, length)",
    "mid": "substring(x, offset, length)",
    "left": "substring(x, 1, length)",
    "starts_with": "startswith(x, prefix)",
    "contains": "match(x, 'pattern')",
    "like": "match(x, 'pattern')",
    "regexp": "match(x, 'pattern')",
    "regexp_like": "match(x, 'pattern')",
    "regexp_matches": "match(x, 'pattern')",
    "endswith": "match(x, 'suffix$')",
    "str": "to_string(x)",
    "tostring": "to_string(x)",
    "cast": "to_string(x)",
    "pow": "x ^ y",
    "power": "x ^ y",
    "mod": "x % y",
    "ln": "log(x)",
    "truepositive": "tp()",
    "true_positive": "tp()",
    "f1": "f1_score()",
    "fbeta": "f1_score()",
    "tpr": "recall()",
    "sensitivity": "recall()",
    "specificity": "1 - fpr()",
    "tnr": "1 - fpr()",
    "fnr": "1 - recall()",
    "auc": "auroc()",
    "roc_auc": "auroc()",
    "rmse": "sqrt(mse())",
    "ece": "expected_calibration_error()",
    "logloss": "log_loss()",
    "ndcg": "ndcg_mean()",
    "rows": "traffic()",
    "count_rows": "traffic()",
    "maximum": "max(x)",
    "minimum": "min(x)",
}

#: Characters of a name that are compared: similarity takes quadratic time.
_CHARACTERS_MAX: Final = 128
_SIMILAR: Final = 0.7


def did_you_mean(name: str, known: Collection[str]) -> str | None:
    """Give the most similar known name, None where none is similar."""
    if len(name) > _CHARACTERS_MAX:
        return None
    folded: dict[str, str] = {}
    for item in known:
        folded.setdefault(item.casefold(), item)
    if name.casefold() in folded:
        return folded[name.casefold()]
    near = get_close_matches(name, known, n=1, cutoff=_SIMILAR)
    if near:
        return near[0]
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=_SIMILAR)
    return folded[near[0]] if near else None
