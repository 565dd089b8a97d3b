"""The part of rules_proto that a build without a network needs: the native rules, with the tag that they ask for."""

_TAG = "__PROTO_RULES_MIGRATION_DO_NOT_USE_WILL_BREAK__"

def _tagged(attributes):
    attributes["tags"] = (attributes.get("tags") or []) + [_TAG]
    return attributes

def proto_lang_toolchain(**attributes):
    native.proto_lang_toolchain(**_tagged(attributes))

def proto_library(**attributes):
    native.proto_library(**_tagged(attributes))
