# With -DCMAKE_UNITY_BUILD=ON the sources of a folder are compiled as one, which takes a fraction of
# the time: most of it goes to the same headers. So names in their unnamed namespaces must differ,
# except in sources with the property SKIP_UNITY_BUILD_INCLUSION.
function(octavo_unite_folders)  # targets...
  foreach(target IN LISTS ARGN)
    if(NOT TARGET ${target})
      continue()
    endif()
    set_target_properties(${target} PROPERTIES UNITY_BUILD_MODE GROUP)
    get_target_property(sources ${target} SOURCES)
    get_target_property(root ${target} SOURCE_DIR)
    list(FILTER sources EXCLUDE REGEX "^${PROJECT_BINARY_DIR}/")  # generated
    foreach(source IN LISTS sources)
      cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${root} NORMALIZE)
      cmake_path(GET source PARENT_PATH folder)
      cmake_path(RELATIVE_PATH folder BASE_DIRECTORY ${PROJECT_SOURCE_DIR})
      string(MAKE_C_IDENTIFIER "${folder}" group)
      set_property(SOURCE ${source} TARGET_DIRECTORY ${target} PROPERTY UNITY_GROUP ${group})
    endforeach()
  endforeach()
endfunction()
