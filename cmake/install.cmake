# Installs the library, its headers, a CMake package and the command line.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/octavo)

install(TARGETS octavo EXPORT octavoTargets)
install(DIRECTORY include/octavo DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT octavoTargets NAMESPACE octavo:: DESTINATION ${package_dir})

configure_package_config_file(cmake/octavoConfig.cmake.in ${PROJECT_BINARY_DIR}/octavoConfig.cmake
  INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change the API.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/octavoConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/octavoConfig.cmake
              ${PROJECT_BINARY_DIR}/octavoConfigVersion.cmake
        DESTINATION ${package_dir})

if(OCTAVO_CUDA_PACK_ARCHS)
  install(DIRECTORY ${PROJECT_BINARY_DIR}/octavo-cubins DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()

if(TARGET octavo_cli)
  # The command line finds a shared library beside it, wherever the prefix is moved to.
  file(RELATIVE_PATH bin_to_lib /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
  set_target_properties(octavo_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
  install(TARGETS octavo_cli)
endif()
