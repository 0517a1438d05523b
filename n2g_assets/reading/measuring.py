"""What a unit really does on a text: the subject model of a study, loaded at the first question and kept.

It answers one question at a time. A text is cut where the model stops reading.
"""

import threading
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int32
from pydantic import TypeAdapter

from n2g_assets.core.errors import StorageError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.sources import SubjectSettings
from n2g_assets.core.unit_settings import AnyUnits
from n2g_assets.core.units import Unit as Asked
from n2g_assets.reading.study import Study, Unit

if TYPE_CHECKING:
    from n2g_assets.model.model import SubjectModel

_BATCH_TOKENS = 4096


class Measuring:
    """Runs the subject models of studies; the one that was asked last stays loaded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[tuple[str, ...], SubjectModel] | None = None

    def __call__(self, unit: Unit, token_ids: Int32[np.ndarray, " length"]) -> Float32[np.ndarray, " length"]:
        """The unit's activation, times its sign, at every position of a context; NaN behind what the model reads.

        Raises:
            N2GError: the model cannot be loaded here, or is not the one that the study explains.
        """
        from n2g_assets.model.batching import TokenBudget
        from n2g_assets.model.prober import LayerProber

        with self._lock:
            model = self._model(unit.study)
            read = token_ids[: model.max_context + model.unread]
            prober = LayerProber(model, unit.layer, TokenBudget(_BATCH_TOKENS))
            [found] = prober.activations([read], [Asked(unit.number, unit.sign)])
        return np.append(found, np.full(len(token_ids) - len(read), np.nan, np.float32))

    def _model(self, study: Study) -> "SubjectModel":
        from n2g_assets.model.encoders.resolve import resolve_units
        from n2g_assets.model.folder import model_identity
        from n2g_assets.model.load import load_subject
        from n2g_assets.model.sources import resolve_subject

        facts = study.model | ({"encoders": study.encoders} if study.encoders else {})
        layers = (None, *sorted(study.encoders))
        identity = tuple(model_identity(facts, layer) for layer in layers)
        if self._loaded is None or self._loaded[0] != identity:
            self._loaded = None  # memory holds one
            settings = study.settings
            subject = TypeAdapter(SubjectSettings).validate_python(settings["subject"])
            folder = study.home.folder_of(study.name)
            files = resolve_subject(subject, study_folder=folder, home=study.home)
            units = TypeAdapter(AnyUnits).validate_python(settings.get("units"))
            encoders = resolve_units(units, sorted(study.encoders), settings["hook"], study_folder=folder)
            model = load_subject(
                files, study.model["hook"], HarvestSettings.model_validate(settings["harvest"]),
                settings["method"]["mask_token"], bos=settings["bos"], encoders=encoders,
            )  # fmt: skip
            if tuple(model_identity(model.facts, layer) for layer in layers) != identity:
                raise StorageError(
                    f"The subject model of study '{study.name}', or its encoder, is another one by now: run it again."
                )
            self._loaded = identity, model
        return self._loaded[1]
