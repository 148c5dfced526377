"""A list of concepts for one run: read, checked as a whole, and merged with what the run says."""

from ti_flax.config.concept_list.read import ConceptList, ConceptListError, ListedConcept, read_concepts

__all__ = ["ConceptList", "ConceptListError", "ListedConcept", "read_concepts"]
