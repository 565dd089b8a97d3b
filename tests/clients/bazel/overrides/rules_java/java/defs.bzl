"""The part of rules_java that a build without a network needs: the native rules, with the tag that they ask for."""

_TAG = "__JAVA_RULES_MIGRATION_DO_NOT_USE_WILL_BREAK__"

def _tagged(attributes):
    attributes["tags"] = (attributes.get("tags") or []) + [_TAG]
    return attributes

def java_binary(**attributes):
    native.java_binary(**_tagged(attributes))

def java_import(**attributes):
    native.java_import(**_tagged(attributes))

def java_library(**attributes):
    native.java_library(**_tagged(attributes))

def java_package_configuration(**attributes):
    native.java_package_configuration(**_tagged(attributes))

def java_plugin(**attributes):
    native.java_plugin(**_tagged(attributes))

def java_runtime(**attributes):
    native.java_runtime(**_tagged(attributes))

def java_test(**attributes):
    native.java_test(**_tagged(attributes))

def java_toolchain(**attributes):
    native.java_toolchain(**_tagged(attributes))
