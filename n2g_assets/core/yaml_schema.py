"""The JSON schema of a study's settings, for editors and for ``dg check yaml``.

Pydantic writes a setting of several shapes as alternatives of which one must fit. Of a value that fits none, a checker
can only say so. Here the value's type, or its ``source``, chooses the alternative, so that what is wrong in it is said.
"""

from typing import Any

from n2g_assets.core.settings import StudySettings


def yaml_schema() -> dict[str, Any]:
    """The schema of the attributes of a ``defs.yaml``."""
    return _chosen(StudySettings.model_json_schema())


def _chosen(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_chosen(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _chosen(part) for key, part in schema.items()}
    if "discriminator" in schema:
        key, kinds = schema["discriminator"]["propertyName"], schema["discriminator"]["mapping"]
        del schema["discriminator"], schema["oneOf"]
        is_kind = {tag: {"type": "object", "properties": {key: {"const": tag}}, "required": [key]} for tag in kinds}
        chosen = [(is_kind[tag], {"$ref": kind}) for tag, kind in kinds.items()]
        schema |= {"type": "object", "properties": {key: {"enum": list(kinds)}}, "required": [key]}
    elif alternatives := schema.pop("oneOf", None) or schema.pop("anyOf", None):
        by_type = {part.get("type", "object"): part for part in alternatives}
        chosen = [({"type": kind}, part) for kind, part in by_type.items()]
        schema |= {"type": list(by_type)}
    else:
        return schema
    return schema | {"allOf": [{"if": condition, "then": part} for condition, part in chosen]}
