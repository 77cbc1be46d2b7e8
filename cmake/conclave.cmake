# What every target of ours is built with, and the two functions that declare a folder and a test.

add_library(conclave_options INTERFACE)
add_library(conclave::options ALIAS conclave_options)
target_compile_options(conclave_options INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Wpedantic -Werror -Wno-missing-field-initializers
  -ffp-contract=off)
if(CONCLAVE_SANITIZE)
  target_compile_options(conclave_options INTERFACE -fsanitize=${CONCLAVE_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(conclave_options INTERFACE -fsanitize=${CONCLAVE_SANITIZE})
endif()

# conclave_library(NAME SOURCES ... HEADERS ... PUBLIC ... PRIVATE ...): target conclave_NAME, alias conclave::NAME.
# Headers are included from the root of the tree ("scheduler/types.h") and must stand alone
# (target all_verify_interface_header_sets).
function(conclave_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;HEADERS;PUBLIC;PRIVATE" ${ARGN})
  add_library(conclave_${name} STATIC ${ARG_SOURCES})
  add_library(conclave::${name} ALIAS conclave_${name})
  target_sources(conclave_${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${ARG_HEADERS})
  target_link_libraries(conclave_${name} PUBLIC ${ARG_PUBLIC} PRIVATE conclave::options ${ARG_PRIVATE})
  set_target_properties(conclave_${name} PROPERTIES LINKER_LANGUAGE CXX VERIFY_INTERFACE_HEADER_SETS ON)
endfunction()

# conclave_test(NAME LABEL SOURCES ... LINK ...): one GoogleTest binary whose cases ctest sees under LABEL
# (unit, sim, parity, cluster).
function(conclave_test name label)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE conclave::options ${ARG_LINK} GTest::gtest_main GTest::gmock)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE CONCLAVE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  gtest_discover_tests(${name} PROPERTIES LABELS ${label} TIMEOUT 120 DISCOVERY_TIMEOUT 60)
endfunction()
