# Builds and installs the library afresh, moves the prefix elsewhere, and from there builds and runs
# the consumer project, and runs the command line, which must find the pack of device code there.
#
#   cmake -D source=... -D work=... -D shared=ON|OFF -D generator=... -D c_compiler=...
#         -D cxx_compiler=... -P install_test.cmake

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

include(${CMAKE_CURRENT_LIST_DIR}/cuda/fake_nvcc.cmake)

set(toolchain -G ${generator} -D CMAKE_BUILD_TYPE=Release -D CMAKE_CXX_COMPILER=${cxx_compiler})
file(REMOVE_RECURSE ${work})
file(MAKE_DIRECTORY ${work})
write_nvcc(${work}/nvcc 1 none)
set(ENV{OCTAVO_NVCC} ${work}/nvcc)
set(ENV{OCTAVO_NVRTC} "")
unset(ENV{OCTAVO_CUDA_PACK})
run(${CMAKE_COMMAND} -S ${source} -B ${work}/library ${toolchain} -D BUILD_SHARED_LIBS=${shared}
    -D OCTAVO_BUILD_TESTS=OFF "-D OCTAVO_CUDA_PACK_ARCHS=80\;90")
run(${CMAKE_COMMAND} --build ${work}/library --parallel 2)
run(${CMAKE_COMMAND} --install ${work}/library --prefix ${work}/staged)
file(REMOVE_RECURSE ${work}/library)
file(RENAME ${work}/staged ${work}/prefix)

run(${CMAKE_COMMAND} -S ${source}/tests/consumer -B ${work}/consumer ${toolchain}
    -D CMAKE_C_COMPILER=${c_compiler} -D CMAKE_PREFIX_PATH=${work}/prefix)
run(${CMAKE_COMMAND} --build ${work}/consumer)
run(${work}/consumer/consumer_cpp)
run(${work}/consumer/consumer_c)
run(${work}/prefix/bin/octavo verify "paged q=bf16 hq=2 hkv=1 d=64 mask=causal q_len=1 kv_len=9")
execute_process(COMMAND ${work}/prefix/bin/octavo compile --arch 80,90
  OUTPUT_VARIABLE compiled COMMAND_ERROR_IS_FATAL ANY)
if(NOT compiled MATCHES ": 0 compiled, [1-9][0-9]* there already, 0 failed")
  message(FATAL_ERROR "the command line does not find the pack: ${compiled}")
endif()
file(REMOVE_RECURSE ${work})
