# Builds and installs the library afresh, moves the prefix elsewhere, and from there builds and runs
# the consumer project, and runs the command line.
#
#   cmake -D source=... -D work=... -D shared=ON|OFF -D generator=... -D c_compiler=...
#         -D cxx_compiler=... -P install_test.cmake

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(toolchain -G ${generator} -D CMAKE_BUILD_TYPE=Release -D CMAKE_CXX_COMPILER=${cxx_compiler})
file(REMOVE_RECURSE ${work})
run(${CMAKE_COMMAND} -S ${source} -B ${work}/library ${toolchain} -D BUILD_SHARED_LIBS=${shared}
    -D OCTAVO_BUILD_TESTS=OFF)
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
file(REMOVE_RECURSE ${work})
