# Which versions find_package(robocache VERSION) may ask for; tests/cpp holds this number to the one in Cargo.toml.

set(PACKAGE_VERSION "0.1.0")

# Before 1.0 a minor version may change an interface, so a request for 0.1 takes 0.1.* only.
set(PACKAGE_VERSION_COMPATIBLE FALSE)
if(PACKAGE_VERSION VERSION_GREATER_EQUAL "${PACKAGE_FIND_VERSION}")
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" _robocache_series "${PACKAGE_VERSION}")
  if(PACKAGE_FIND_VERSION_COUNT LESS 2
     OR "${PACKAGE_FIND_VERSION_MAJOR}.${PACKAGE_FIND_VERSION_MINOR}" STREQUAL _robocache_series)
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
  endif()
endif()
if("${PACKAGE_FIND_VERSION}" VERSION_EQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
