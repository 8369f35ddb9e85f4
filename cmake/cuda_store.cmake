# The part of the library that finds or compiles device code, with the kernels' sources in it.
target_sources(octavo PRIVATE
  src/cuda/store/code_store.cpp
  src/cuda/store/compiler.cpp
  src/cuda/store/entry.cpp
  src/cuda/store/file_lock.cpp
  src/cuda/store/find_compiler.cpp
  src/cuda/store/memory_program.cpp
  src/cuda/store/places.cpp
  src/cuda/store/process.cpp
  src/cuda/store/scratch.cpp
  src/cuda/store/sources.cpp)
set_source_files_properties(src/cuda/store/places.cpp PROPERTIES
  COMPILE_DEFINITIONS OCTAVO_LIBDIR="${CMAKE_INSTALL_LIBDIR}")
target_link_libraries(octavo PRIVATE ${CMAKE_DL_LIBS})

function(octavo_embed function root)  # the files named relative to `root`
  set(out ${PROJECT_BINARY_DIR}/embedded/${function}.cpp)
  list(TRANSFORM ARGN PREPEND ${root}/ OUTPUT_VARIABLE inputs)
  string(REPLACE ";" "|" files "${ARGN}")
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} -D out=${out} -D function=${function} -D root=${root}
      -D "files=${files}" -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    DEPENDS ${inputs} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    VERBATIM)
  target_sources(octavo PRIVATE ${out})
endfunction()

file(GLOB_RECURSE kernel_sources CONFIGURE_DEPENDS
  RELATIVE ${PROJECT_SOURCE_DIR}/src/cuda/kernels src/cuda/kernels/*.cu src/cuda/kernels/*.h)
octavo_embed(kernel_sources ${PROJECT_SOURCE_DIR}/src/cuda/kernels ${kernel_sources})

add_executable(octavo_nvrtc_child src/cuda/store/nvrtc_child.cpp)
target_link_libraries(octavo_nvrtc_child PRIVATE octavo_options ${CMAKE_DL_LIBS})
target_link_options(octavo_nvrtc_child PRIVATE -s)
octavo_embed(nvrtc_child ${PROJECT_BINARY_DIR} octavo_nvrtc_child)

# Run once the command line is there: compiles the pack for OCTAVO_CUDA_PACK_ARCHS beside the library.
function(octavo_add_pack)
  if(NOT OCTAVO_CUDA_PACK_ARCHS)
    return()
  endif()
  if(NOT TARGET octavo_cli OR CMAKE_CROSSCOMPILING)
    message(FATAL_ERROR "OCTAVO_CUDA_PACK_ARCHS=${OCTAVO_CUDA_PACK_ARCHS}: the pack is made by the "
                        "command line, which this build does not have or cannot run")
  endif()
  set(pack ${PROJECT_BINARY_DIR}/octavo-cubins)
  list(JOIN OCTAVO_CUDA_PACK_ARCHS "," architectures)
  add_custom_command(OUTPUT ${pack}.made
    COMMAND octavo_cli compile --arch ${architectures} --out ${pack}
    COMMAND ${CMAKE_COMMAND} -E touch ${pack}.made
    DEPENDS octavo_cli
    COMMENT "Compiling device code for ${architectures}"
    USES_TERMINAL VERBATIM)
  add_custom_target(octavo_cuda_pack ALL DEPENDS ${pack}.made)
endfunction()
