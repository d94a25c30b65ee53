"""Presidio's pattern recognisers, loaded without the rest of it.

`import presidio_analyzer` loads spaCy, transformers and torch for engines that are not used here; the pattern
recognisers are a few plain modules below it. They are loaded under a bare package, which is taken away again.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

_PACKAGE = "presidio_analyzer"
_SUFFIXES = "tldextract"
"""With it the e-mail recogniser would check domains, by a list that it fetches and keeps. It gets nothing."""
_APART = frozenset({_PACKAGE, _SUFFIXES})
_CORE = (
    ("analysis_explanation", "AnalysisExplanation"),
    ("recognizer_result", "RecognizerResult"),
    ("entity_recognizer", "EntityRecognizer"),
    ("local_recognizer", "LocalRecognizer"),
    ("pattern", "Pattern"),
    ("pattern_recognizer", "PatternRecognizer"),
)
"""What the recognisers import from the package, in the order in which one needs the other."""
RECOGNISERS = {
    "email": ("generic.email_recognizer", "EmailRecognizer"),
    "iban": ("generic.iban_recognizer", "IbanRecognizer"),
    "card": ("generic.credit_card_recognizer", "CreditCardRecognizer"),
    "de_tax_id": ("country_specific.germany.de_tax_id_recognizer", "DeTaxIdRecognizer"),
    "de_kvnr": ("country_specific.germany.de_health_insurance_recognizer", "DeHealthInsuranceRecognizer"),
    "uk_nino": ("country_specific.uk.uk_nino_recognizer", "UkNinoRecognizer"),
    "uk_nhs": ("country_specific.uk.uk_nhs_recognizer", "NhsRecognizer"),
    "us_ssn": ("country_specific.us.us_ssn_recognizer", "UsSsnRecognizer"),
    "es_nif": ("country_specific.spain.es_nif_recognizer", "EsNifRecognizer"),
    "es_nie": ("country_specific.spain.es_nie_recognizer", "EsNieRecognizer"),
    "it_fiscal_code": ("country_specific.italy.it_fiscal_code_recognizer", "ItFiscalCodeRecognizer"),
}


def recognisers() -> dict[str, Any]:
    """The recogniser classes, by our name for what they find. Raises ImportError where Presidio is not installed."""
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _APART}
    for name in ours:
        del sys.modules[name]
    try:
        package = _bare(_PACKAGE)
        engine = _bare(f"{_PACKAGE}.nlp_engine")
        engine.NlpArtifacts = object  # type: ignore[attr-defined]  # named in annotations only
        _bare(f"{_PACKAGE}.predefined_recognizers")
        sys.modules[_SUFFIXES] = ModuleType(_SUFFIXES)
        for module, name in _CORE:
            setattr(package, name, getattr(import_module(f"{_PACKAGE}.{module}"), name))
        return {
            form: getattr(import_module(f"{_PACKAGE}.predefined_recognizers.{module}"), name)
            for form, (module, name) in RECOGNISERS.items()
        }
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in _APART]:
            del sys.modules[name]
        sys.modules.update(ours)


def _bare(name: str) -> ModuleType:
    """A package of that name whose modules can be imported, without its own beginning."""
    spec = PathFinder.find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{_PACKAGE} is not installed")
    module = ModuleType(name)
    module.__path__ = ["/".join((folder, *name.split(".")[1:])) for folder in spec.submodule_search_locations]
    sys.modules[name] = module
    return module
